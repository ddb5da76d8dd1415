"""A graph of one node that asks a model. BENCH_MODEL says where it is."""

import os

from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

MODEL = ChatOpenAI(model="gpt-4o-mini", api_key="sk-bench", base_url=os.environ["BENCH_MODEL"], streaming=True)


async def answer(state: MessagesState) -> dict:
    return {"messages": [await MODEL.ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
graph = builder.compile()

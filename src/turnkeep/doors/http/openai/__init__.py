"""OpenAI's doors: models, Chat Completions, Responses and the Assistants API, over ordinary runs.

Each dialect is a reader of requests and an encoder of what becomes of a turn (`turn_reader`). None
keeps anything of its own: ids name threads and messages, the rest is read from transcript and log.
"""

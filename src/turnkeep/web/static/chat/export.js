// A conversation as a file, made here of what is on the page.

import { element } from "../element.js";
import { textOf } from "./transcript.js";

export function exportMarkdown(title, conversation) {
  const items = itemsOf(conversation);
  const parts = items.flatMap((item) => {
    if (item.kind === "user") return [`**You:** ${textOf(item.content)}`];
    if (item.kind === "assistant") return [`**${item.author ?? "Assistant"}:** ${item.text}`];
    return item.kind === "call" ? [`*used ${item.name}* \`${item.arguments}\``] : [];
  });
  save(`${fileName(title)}.md`, "text/markdown", `# ${title}\n\n${parts.join("\n\n")}\n`);
}

export function exportJson(title, conversation) {
  const body = { channel: conversation.channel, title, items: itemsOf(conversation), open: conversation.body?.open ?? [], dead: conversation.body?.dead ?? [] };
  save(`${fileName(title)}.json`, "application/json", JSON.stringify(body, null, 2));
}

const itemsOf = (conversation) => [...conversation.older, ...(conversation.body?.items ?? [])];
const fileName = (title) => title.replace(/[^\p{L}\p{N}-]+/gu, "-").slice(0, 60) || "conversation";

function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

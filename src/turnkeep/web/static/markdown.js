// Markdown as elements. The library reads it; nothing of it is ever taken as markup, so that a model can neither
// run nor load anything here: HTML stays text, a picture is a link to it.

import { Marked } from "./vendor/marked.js";
import { button, element } from "./element.js";
import { extensions, formula } from "./formulas.js";

const SAFE = /^(https?:|mailto:)/i;
const ENTITY = /&(#\d+|#x[0-9a-f]+|amp|lt|gt|quot|apos|nbsp);/gi;
const reader = new Marked({ gfm: true, breaks: true, extensions });
const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: " " };

// Draw `text` into `into`. Blocks that are as they were stay: an answer that grows is drawn at its end only.
export function draw(into, text, { isLive = false } = {}) {
  const blocks = reader.lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
  level(blocks);
  blocks.forEach((token, place) => {
    const isOpen = isLive && place === blocks.length - 1;
    const look = `${isOpen}${token.level ?? ""}${token.raw}`;
    const present = into.children[place];
    if (present?.look === look) return;
    const made = block(token, isOpen);
    made.look = look;
    if (present) present.replaceWith(made);
    else into.append(made);
  });
  while (into.children.length > blocks.length) into.lastChild.remove();
}

// Headings beneath that of the page, without a step left out: who listens to a page goes by them.
function level(blocks) {
  const headings = blocks.filter((token) => token.type === "heading");
  const least = Math.min(...headings.map((token) => token.depth));
  let before = 1;
  for (const token of headings) before = token.level = Math.min(6, token.depth - least + 2, before + 1);
}

function block(token, isOpen) {
  switch (token.type) {
    case "heading":
      return element(`h${token.level ?? 6}`, {}, ...inline(token.tokens));
    case "code":
      return code(token.text, token.lang ?? "", isOpen);
    case "blockquote":
      return element("blockquote", {}, ...token.tokens.map((one) => block(one, false)));
    case "list":
      return element(token.ordered ? "ol" : "ul", { start: token.ordered && token.start !== 1 ? token.start : null }, ...token.items.map(item));
    case "table":
      return table(token);
    case "formula":
      return formula(token);
    case "hr":
      return element("hr");
    case "space":
      return element("span");
    default:
      return element("p", {}, ...(token.tokens ? inline(token.tokens) : [token.raw]));
  }
}

function item(entry) {
  const box = entry.task ? [element("input", { type: "checkbox", checked: entry.checked, disabled: true, "aria-label": "done" }), " "] : [];
  const parts = entry.tokens.flatMap((token) => {
    if (token.type === "text" || (token.type === "paragraph" && !entry.loose)) return token.tokens ? inline(token.tokens) : [token.text];
    return token.type === "space" ? [] : [block(token, false)];
  });
  return element("li", {}, ...box, ...parts);
}

function table(token) {
  const cells = (row, tag) => row.map((cell) => element(tag, {}, ...inline(cell.tokens)));
  const head = element("thead", {}, element("tr", {}, ...cells(token.header, "th")));
  const body = element("tbody", {}, ...token.rows.map((row) => element("tr", {}, ...cells(row, "td"))));
  return element("div", { class: "wide", tabIndex: 0, role: "group", "aria-label": "Table" }, element("table", {}, head, body));
}

function inline(tokens) {
  return tokens.map((token) => {
    switch (token.type) {
      case "strong":
      case "em":
      case "del":
        return element(token.type, {}, ...inline(token.tokens));
      case "codespan":
        return element("code", {}, token.text);
      case "formula":
        return formula(token);
      case "br":
        return element("br");
      case "link":
        return link(token.href, inline(token.tokens));
      case "image":
        return link(token.href, [`image: ${token.text || token.href}`]);
      case "html":
        return token.raw;
      default:
        return token.tokens ? element("span", {}, ...inline(token.tokens)) : plain(token.text ?? token.raw);
    }
  });
}

function link(href, children) {
  if (!SAFE.test(href)) return element("span", {}, ...children);
  return element("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

function plain(text) {
  return text.replace(ENTITY, (whole, name) => {
    if (name[0] !== "#") return NAMED[name.toLowerCase()] ?? whole;
    const number = name[1].toLowerCase() === "x" ? Number.parseInt(name.slice(2), 16) : Number(name.slice(1));
    return number > 0 && number <= 0x10ffff ? String.fromCodePoint(number) : whole;
  });
}

function code(text, info, isOpen) {
  const language = info.trim().split(/\s/)[0];
  const body = element("code", {}, text);
  const copy = button("Copy", () => copyText(text, copy));
  const pre = element("pre", { tabIndex: 0, "aria-label": language ? `Code in ${language}` : "Code" }, body);
  if (language && !isOpen) highlight(body, text, language);
  return element("div", { class: "code" }, element("div", {}, element("span", {}, language || "text"), copy), pre);
}

// Loaded when there is something to be coloured, and not before.
async function highlight(body, text, language) {
  const { default: library } = await import("./vendor/highlight.js");
  if (!library.getLanguage(language)) return;
  const marked = library.highlight(text, { language, ignoreIllegals: true }).value;
  const spans = new DOMParser().parseFromString(marked, "text/html").body;
  body.replaceChildren(...copied(spans));
}

// Only the spans of the library and their text come over, whatever else a mistake of it might let through.
function copied(node) {
  return [...node.childNodes].map((child) => {
    if (child.nodeType === Node.TEXT_NODE) return child.textContent;
    return element("span", { class: child.className }, ...copied(child));
  });
}

export async function copyText(text, from) {
  const words = from.textContent;
  try {
    await navigator.clipboard.writeText(text);
    from.textContent = "Copied";
  } catch {
    from.textContent = "Not allowed here";
  }
  setTimeout(() => (from.textContent = words), 1500);
}

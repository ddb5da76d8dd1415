// Formulas: TeX in an answer, drawn as MathML, which browsers show by themselves, without fonts and styles of a library.

import { element } from "./element.js";

const MATHML = "http://www.w3.org/1998/Math/MathML";
const ELEMENTS = new Set(["math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup", "munder", "mover", "munderover", "mtable", "mtr", "mtd", "mpadded", "mphantom", "mstyle", "mmultiscripts", "mprescripts", "none"]);
const ATTRIBUTES = ["display", "mathvariant", "stretchy", "fence", "separator", "form", "lspace", "rspace", "minsize", "maxsize", "symmetric", "largeop", "movablelimits", "accent", "accentunder", "linethickness", "displaystyle", "scriptlevel", "width", "height", "depth", "voffset", "columnalign", "rowalign", "columnspan", "rowspan"];
const BORDERS = ["borderTop", "borderRight", "borderBottom", "borderLeft"]; // rules of tables, and frames
const LINES = { top: "borderTop", bottom: "borderBottom", box: "border" }; // of `menclose`, which browsers do not draw
const MOST = 500; // drawn formulas that are kept: an answer that grows shows the same ones at each token

const drawn = new Map();

// Where Markdown begins one: between two dollars, as pandoc reads them, so that prices stay prices; \( \), $$ $$ and \[ \].
const BLOCK = /^ {0,3}(?:\$\$([^$]{1,4000}?)\$\$|\\\[([\s\S]{1,4000}?)\\\])[ \t]*(?:\n+|$)/;
const INLINE = /^(?:\\\(([\s\S]{1,2000}?)\\\)|\\\[([\s\S]{1,2000}?)\\\]|\$\$([^$]{1,2000}?)\$\$|\$(?![\s$])((?:\\[\s\S]|[^\\$\n]){0,500}?[^\s\\$])\$(?!\d))/;

const tokenOf = (found, isDisplay) => (found ? { type: "formula", raw: found[0], tex: found.slice(1).find((part) => part !== undefined).trim(), isDisplay } : undefined);

// Within the paragraph: each is looked through once, however long the text is.
function startOfBlock(text) {
  const found = text.match(/\n(?: {0,3}(\$\$|\\\[)|[ \t]*\n)/);
  return found?.[1] ? found.index : undefined;
}

export const extensions = [
  { name: "formula", level: "block", start: startOfBlock, tokenizer: (text) => tokenOf(BLOCK.exec(text), true) },
  { name: "formula", level: "inline", start: (text) => text.match(/\$|\\[([]/)?.index, tokenizer: (text) => tokenOf(INLINE.exec(text), /^(?:\$\$|\\\[)/.test(text)) },
];

export function formula({ tex, isDisplay }) {
  const key = `${isDisplay} ${tex}`;
  const place = isDisplay ? element("div", { class: "wide formula", tabIndex: 0, role: "group", "aria-label": "Formula" }) : element("span", { class: "formula" });
  const known = drawn.get(key);
  place.append(known ? known.cloneNode(true) : element("code", {}, tex));
  if (!known) make(place, tex, isDisplay, key);
  return place;
}

// Loaded when there is a formula, and not before. One that makes no sense stays as it was written.
async function make(place, tex, isDisplay, key) {
  const { default: library } = await import("./vendor/temml.js");
  const box = document.createElement("span");
  let made;
  try {
    library.render(tex, box, { displayMode: isDisplay, throwOnError: true, maxExpand: 200, maxSize: [40, 40] });
    [made] = copied(box);
  } catch {
    return;
  }
  if (!(made instanceof Element)) return;
  if (drawn.size >= MOST) drawn.delete(drawn.keys().next().value);
  drawn.set(key, made);
  place.replaceChildren(made.cloneNode(true));
}

// Only MathML that shows something comes over, whatever else a mistake of the library might let through.
function copied(node) {
  return [...node.childNodes].flatMap((child) => {
    if (child.nodeType === Node.TEXT_NODE) return [document.createTextNode(child.textContent)];
    if (child.localName === "menclose") return [lined(child)];
    if (!ELEMENTS.has(child.localName)) return child.localName?.startsWith("annotation") ? [] : copied(child);
    const copy = document.createElementNS(MATHML, child.localName);
    for (const name of ATTRIBUTES) if (child.hasAttribute(name)) copy.setAttribute(name, child.getAttribute(name));
    if (Math.abs(parseFloat(child.getAttribute("voffset"))) > 3) copy.removeAttribute("voffset"); // not over what others said
    for (const side of BORDERS) if (child.style?.[side]) copy.style[side] = child.style[side];
    copy.append(...copied(child));
    return [copy];
  });
}

// Without its line a formula would say something else: one that is not drawn here (crossed out) stays as it was written.
function lined(child) {
  const side = LINES[child.getAttribute("notation")];
  if (!side) throw new RangeError("a line that is not drawn");
  const made = document.createElementNS(MATHML, "mrow");
  made.style[side] = "0.06em solid";
  made.append(...copied(child));
  return made;
}

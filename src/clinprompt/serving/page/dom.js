// Elements without templates: nothing that a note or a model says is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (name === "style") for (const [key, item] of Object.entries(value)) node.style.setProperty(key, item);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "hidden") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const byId = (id) => document.getElementById(id);

/** Says something to screen readers without moving the focus. */
export function announce(text) {
  byId("status").textContent = text;
}

let next = 0;

/** A fresh id, to tie a label to its field. */
export const unique = (stem) => `${stem}-${++next}`;

/** A labelled field: the label's text and the field, with the field's own id. */
export function field(text, input, hint = null) {
  input.id ||= unique("field");
  const about = hint ? el("small", { class: "quiet", id: `${input.id}-hint` }, hint) : null;
  if (about) input.setAttribute("aria-describedby", about.id);
  return el("div", { class: "field" }, el("label", { for: input.id }, text), input, about);
}

export const percent = (value) => (value === null || value === undefined ? "" : `${(100 * value).toFixed(0)} %`);

export const bytes = (count) =>
  count < 1000 ? `${count} B` : count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`;

/** Reads files that were dropped or chosen; what is no text is refused by name of its kind, never by content. */
export async function textsOf(files) {
  const texts = [];
  for (const file of files) {
    if (file.size > 4e6) throw new Error("A file is larger than 4 MB. Notes are text files.");
    const text = new TextDecoder("utf-8", { fatal: true });
    try {
      texts.push(text.decode(await file.arrayBuffer()).replace(/\r\n?/g, "\n"));
    } catch {
      throw new Error("A file is not UTF-8 text. Save it as plain text (.txt, UTF-8) first.");
    }
  }
  return texts;
}

/** Makes an element take dropped files. */
export function takesFiles(node, take) {
  node.addEventListener("dragover", (event) => {
    event.preventDefault();
    node.classList.add("over");
  });
  node.addEventListener("dragleave", () => node.classList.remove("over"));
  node.addEventListener("drop", (event) => {
    node.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    take(event.dataTransfer.files);
  });
}

/** A button that opens the file dialog. */
export function fileButton(text, take, several = false) {
  const input = el("input", { type: "file", accept: ".txt,text/plain", multiple: several, class: "unseen", tabindex: "-1", "aria-hidden": "true" });
  input.addEventListener("change", () => {
    take(input.files);
    input.value = "";
  });
  return [el("button", { type: "button", class: "plain", on: { click: () => input.click() } }, text), input];
}

/** Offers content as a download. */
export function download(content, name) {
  const link = el("a", { href: URL.createObjectURL(content), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

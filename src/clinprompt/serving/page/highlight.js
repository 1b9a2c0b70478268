// Spans over a text, nested and overlapping ones included: each span is an underline in a lane of its own. The gap of a
// discontinuous one is a dashed line in its lane. The text itself is cut at span borders and never repeated.

import { el } from "./dom.js";

const LANE = 5; // pixels from one underline to the next
const THICK = 3;

/** Lane of every item: the shortest come first and lie next to the text; no two in a lane overlap, gaps included. */
export function lanes(items) {
  const extent = items.map((item) => [item.spans[0][0], item.spans.at(-1)[1]]);
  const order = items.map((_, i) => i).sort((a, b) => width(extent[a]) - width(extent[b]) || extent[a][0] - extent[b][0]);
  const taken = [];
  const lane = new Array(items.length).fill(0);
  for (const index of order) {
    const [start, end] = extent[index];
    let free = 0;
    while (taken[free]?.some(([s, e]) => start < e && s < end)) free += 1;
    (taken[free] ||= []).push([start, end]);
    lane[index] = free;
  }
  return lane;
}

const width = ([start, end]) => end - start;

/** The text cut wherever a span begins or ends: [{start, end, inside, between}] with indices of items. */
export function segments(length, items) {
  const cuts = new Set([0, length]);
  for (const item of items) for (const [start, end] of item.spans) cuts.add(start).add(end);
  const places = [...cuts].filter((place) => place <= length).sort((a, b) => a - b);
  const found = [];
  for (let i = 0; i + 1 < places.length; i += 1) {
    const [start, end] = [places[i], places[i + 1]];
    const inside = [];
    const between = [];
    items.forEach((item, index) => {
      if (item.spans.some(([s, e]) => s <= start && end <= e)) inside.push(index);
      else if (item.spans[0][0] <= start && end <= item.spans.at(-1)[1]) between.push(index);
    });
    found.push({ start, end, inside, between });
  }
  return found;
}

/**
 * A text with its items: {id, type, hue, spans, note?, differs?, plain?}. `tags`: types are written behind the spans.
 * Elements of an item carry data-item; the first of each can be focused, and describes the item.
 */
export function highlighted(text, items, { tags = true, focusable = true } = {}) {
  const lane = lanes(items);
  const depth = items.length ? Math.max(...lane) + 1 : 0;
  const box = el("div", { class: "text", style: { "--depth": String(depth) } });
  const told = new Set();
  for (const part of segments(text.length, items)) {
    const words = text.slice(part.start, part.end);
    if (!part.inside.length && !part.between.length) {
      box.append(el("span", { "data-start": part.start }, words));
      continue;
    }
    const node = el("mark", { "data-start": part.start, "data-items": part.inside.join(" "), class: part.inside.length ? "in" : "gap" }, words);
    paint(node, part, items, lane);
    const first = part.inside.find((index) => !told.has(index) && !items[index].plain);
    if (first !== undefined) {
      part.inside.forEach((index) => told.add(index));
      if (focusable) node.tabIndex = 0;
      node.setAttribute("aria-label", part.inside.map((index) => said(text, items[index])).join("; "));
    }
    box.append(node);
    if (!tags) continue;
    for (const index of part.inside) {
      const item = items[index];
      if (part.end !== item.spans.at(-1)[1] || item.plain) continue;
      const hue = `var(--hue-${item.hue})`;
      box.append(el("span", { class: item.differs ? "tag differs" : "tag", "data-tag": item.type, "aria-hidden": "true", style: { "--own": hue } }));
    }
  }
  lightUp(box, items);
  return box;
}

/** What an item is, in words. */
export function said(text, item) {
  const words = item.spans.map(([start, end]) => text.slice(start, end)).join(" … ");
  return [words, item.type, item.note].filter(Boolean).join(", ");
}

function paint(node, part, items, lane) {
  const images = [];
  const sizes = [];
  const places = [];
  const line = (index, image) => {
    images.push(image);
    sizes.push(`100% ${THICK}px`);
    places.push(`0 calc(100% - ${(Math.max(...lane) - lane[index]) * LANE}px)`);
  };
  for (const index of part.inside) {
    const hue = `var(--hue-${items[index].hue})`;
    line(index, `linear-gradient(${hue}, ${hue})`);
  }
  for (const index of part.between) {
    const hue = `var(--hue-${items[index].hue})`;
    line(index, `repeating-linear-gradient(90deg, ${hue} 0 4px, transparent 4px 9px)`);
  }
  if (part.inside.length) {
    const inner = part.inside.reduce((a, b) => (lane[a] <= lane[b] ? a : b));
    const soft = `color-mix(in srgb, var(--hue-${items[inner].hue}) var(--tint), transparent)`;
    images.push(`linear-gradient(${soft}, ${soft})`);
    sizes.push("100% calc(100% - var(--under))");
    places.push("0 0");
    if (part.inside.some((index) => items[index].differs)) node.classList.add("differs");
    if (part.inside.some((index) => items[index].plain)) node.classList.add("chosen");
  }
  node.style.backgroundImage = images.join(", ");
  node.style.backgroundSize = sizes.join(", ");
  node.style.backgroundPosition = places.join(", ");
}

/** Pointing at a part of a span, or focusing it, shows all its parts and says what it is. */
function lightUp(box, items) {
  const own = (node) => (node.dataset.items || "").split(" ").filter(Boolean);
  const show = (event) => {
    const here = event.target.closest?.("mark");
    const wanted = new Set(here && event.type !== "mouseout" && event.type !== "focusout" ? own(here) : []);
    for (const mark of box.querySelectorAll("mark")) mark.classList.toggle("lit", own(mark).some((index) => wanted.has(index)));
    if (here && wanted.size) here.title = [...wanted].map((index) => [items[index].type, items[index].note].filter(Boolean).join(", ")).join("; ");
  };
  for (const event of ["mouseover", "mouseout", "focusin", "focusout"]) box.addEventListener(event, show);
}

/** The [start, end) in code points that the mouse has selected inside a highlighted text; null for none. */
export function selectedIn(box) {
  const selection = getSelection();
  if (!selection.rangeCount || selection.isCollapsed) return null;
  const range = selection.getRangeAt(0);
  if (!box.contains(range.startContainer) || !box.contains(range.endContainer)) return null;
  const [start, end] = [place(box, range.startContainer, range.startOffset), place(box, range.endContainer, range.endOffset)];
  return start < end ? [start, end] : null;
}

function place(box, node, offset) {
  const before = document.createRange();
  before.selectNodeContents(box);
  before.setEnd(node, offset);
  return Array.from(before.toString()).length;
}

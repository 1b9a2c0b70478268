// Relations as arcs over a highlighted text. The table beside the text says the same in words.

import { svg, unique } from "./dom.js";

/** Draws {type, head, tail, hue} (indices of items) over the text, and again whenever its shape changes. */
export function withArcs(box, relations) {
  if (!relations.length) return box;
  box.classList.add("with-arcs");
  const layer = svg("svg", { class: "arcs", "aria-hidden": "true" });
  box.append(layer);
  new ResizeObserver(() => draw(box, layer, relations)).observe(box);
  return box;
}

function draw(box, layer, relations) {
  const frame = box.getBoundingClientRect();
  if (!frame.width) return;
  layer.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
  const tip = unique("tip");
  const head = svg("marker", { id: tip, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
    svg("path", { d: "M0 0L8 4L0 8z", fill: "context-stroke" }));
  layer.replaceChildren(svg("defs", {}, head));
  const rise = new Map();
  for (const relation of relations) {
    const from = anchor(box, frame, relation.head);
    const to = anchor(box, frame, relation.tail);
    if (from && to) layer.append(arc(from, to, relation, tip, level(rise, from, to)));
  }
}

/** Where an item's first fragment can be tied to: its middle, its upper and its lower edge. */
function anchor(box, frame, item) {
  const mark = [...box.querySelectorAll("mark.in")].find((node) => node.dataset.items.split(" ").includes(String(item)));
  const rect = mark?.getClientRects()[0];
  return rect ? { x: rect.left - frame.left + rect.width / 2, top: rect.top - frame.top + 1, bottom: rect.bottom - frame.top + 1 } : null;
}

/** Arcs over the same stretch of a line do not lie on one another. */
function level(rise, from, to) {
  const key = `${Math.round(from.top)} ${Math.round(to.top)}`;
  const found = rise.get(key) || 0;
  rise.set(key, found + 1);
  return found % 3;
}

const same = (from, to) => Math.abs(from.top - to.top) < 8;

function arc(from, to, relation, tip, step) {
  const { path, label } = same(from, to) ? bow(from, to, step) : steps(from, to, step);
  return svg("g", { style: { "--own": `var(--hue-${relation.hue})` } },
    svg("path", { d: path, "marker-end": `url(#${tip})` }),
    svg("text", { x: label.x, y: label.y, "text-anchor": "middle", "dominant-baseline": "middle" }, relation.type));
}

/** On one line: a bow over the words. */
function bow(from, to, step) {
  const high = Math.max(2, Math.min(from.top, to.top) - 22 - 7 * step);
  return { path: `M${from.x} ${from.top}C${from.x} ${high} ${to.x} ${high} ${to.x} ${to.top}`, label: { x: (from.x + to.x) / 2, y: (from.top + 3 * high) / 4 } };
}

/** From line to line: along the space over the lower line, so that no word is crossed on neighbouring lines. */
function steps(from, to, step) {
  const lower = from.top > to.top ? from : to;
  const along = lower.top - 11 - 5 * step;
  const leave = from === lower ? from.top : from.bottom;
  const arrive = to === lower ? to.top : to.bottom;
  const bend = Math.min(6, Math.abs(to.x - from.x) / 2) * Math.sign(to.x - from.x);
  const [down, further] = [Math.sign(along - leave) * 6, Math.sign(arrive - along) * 6];
  const path = `M${from.x} ${leave}V${along - down}Q${from.x} ${along} ${from.x + bend} ${along}H${to.x - bend}Q${to.x} ${along} ${to.x} ${along + further}V${arrive}`;
  return { path, label: { x: (from.x + to.x) / 2, y: along } };
}

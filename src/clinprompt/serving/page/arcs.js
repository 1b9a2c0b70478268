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

/** The middle of the upper edge of an item's first fragment. */
function anchor(box, frame, item) {
  const mark = [...box.querySelectorAll("mark.in")].find((node) => node.dataset.items.split(" ").includes(String(item)));
  const rect = mark?.getClientRects()[0];
  return rect ? { x: rect.left - frame.left + rect.width / 2, y: rect.top - frame.top + 2 } : null;
}

/** Arcs over the same stretch of a line do not lie on one another. */
function level(rise, from, to) {
  const key = `${Math.round(from.y)} ${Math.round(to.y)} ${Math.round((from.x + to.x) / 60)}`;
  const found = rise.get(key) || 0;
  rise.set(key, found + 1);
  return found;
}

function arc(from, to, relation, tip, step) {
  const same = Math.abs(from.y - to.y) < 6;
  const high = (same ? 12 + Math.min(10, Math.abs(to.x - from.x) * 0.03) : 14) + 7 * step;
  const top = Math.max(0, Math.min(from.y, to.y) - high * 1.33);
  const path = same
    ? `M${from.x} ${from.y}C${from.x} ${top} ${to.x} ${top} ${to.x} ${to.y}`
    : `M${from.x} ${from.y}C${from.x} ${from.y - high * 1.6} ${to.x} ${to.y - high * 1.6} ${to.x} ${to.y}`;
  const middle = { x: (from.x + to.x) / 2, y: same ? (from.y + 3 * top) / 4 : (from.y + to.y) / 2 - high * 1.2 };
  return svg("g", { style: { "--own": `var(--hue-${relation.hue})` } },
    svg("path", { d: path, "marker-end": `url(#${tip})` }),
    svg("text", { x: middle.x, y: middle.y, "text-anchor": "middle", "dominant-baseline": "middle" }, relation.type));
}

// The loss of a lesson, as it comes.

import { svg } from "./dom.js";

const [WIDE, HIGH, LEFT, BELOW] = [640, 180, 44, 24];

/** A chart of losses by step, of `steps` in all. */
export function curve(losses, steps) {
  const most = Math.max(...losses, 1e-6) * 1.05;
  const x = (step) => LEFT + ((WIDE - LEFT - 8) * step) / Math.max(1, steps - 1);
  const y = (loss) => 8 + (HIGH - BELOW - 8) * (1 - loss / most);
  const path = losses.map((loss, step) => `${step ? "L" : "M"}${x(step).toFixed(1)} ${y(loss).toFixed(1)}`).join("");
  const last = losses.at(-1);
  const chart = svg("svg", { class: "curve", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img",
    "aria-label": losses.length ? `Training loss, step ${losses.length} of ${steps}: ${last.toFixed(3)}` : "Training loss, not begun" });
  for (const part of [0, 0.5, 1]) {
    const level = part * most;
    chart.append(svg("line", { x1: LEFT, x2: WIDE - 8, y1: y(level), y2: y(level), class: "rule" }));
    chart.append(svg("text", { x: LEFT - 6, y: y(level), "text-anchor": "end", "dominant-baseline": "middle" }, level.toFixed(most < 1 ? 2 : 1)));
  }
  chart.append(svg("text", { x: LEFT, y: HIGH - 6 }, "step 1"));
  chart.append(svg("text", { x: WIDE - 8, y: HIGH - 6, "text-anchor": "end" }, `step ${steps}`));
  if (losses.length > 1) chart.append(svg("path", { d: path, class: "line" }));
  if (losses.length) chart.append(svg("circle", { cx: x(losses.length - 1), cy: y(last), r: 4, class: "point" }));
  return chart;
}

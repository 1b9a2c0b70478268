// How far a lesson is.

import { bytes, download, el } from "./dom.js";
import { curve } from "./curve.js";
import * as server from "./server.js";

/** A lesson under way, or its end: what it does, its curve, its score, what can be done with it. */
export function lessonView(now, losses, page) {
  const method = now.method === "mpt" ? "from the shared metaprompt" : "by prompt tuning";
  const minutes = now.seconds < 100 ? `${Math.round(now.seconds)} s` : `${Math.round(now.seconds / 60)} min`;
  const said = {
    learning: `Learning ${method}: step ${now.step} of ${now.steps}, ${minutes}`,
    scoring: "Asking about the notes that were left out",
    done: `Learned in ${minutes}. ${now.name} answers now (${bytes(now.bytes || 0)}).`,
    failed: `Not learned: ${now.reason}`,
    cancelled: "Cancelled. The notes were forgotten by the server.",
  }[now.state];
  const parts = [el("h3", {}, now.name), el("p", {}, said)];
  if (losses.length) parts.push(curve(losses, now.steps));
  if (now.state === "learning" || now.state === "scoring") {
    parts.push(el("progress", { max: now.steps, value: now.state === "scoring" ? now.steps : now.step, "aria-label": "Steps" }),
      el("p", {}, el("button", { type: "button", class: "plain", on: { click: () => server.cancel(now.id).catch(page.fail) } }, "Cancel")));
  }
  if (now.score) parts.push(score(now.score));
  if (now.state === "done") {
    if (now.reason) parts.push(el("p", { class: "quiet" }, now.reason));
    parts.push(el("p", { class: "row" }, el("button", { type: "button", class: "main", on: { click: () => page.open("read", now.name) } }, "Try it"),
      el("button", { type: "button", class: "plain", on: { click: () => save(now.name, page) } }, "Download the task file")));
  }
  return el("section", { class: "card", "aria-label": "Lesson" }, parts);
}

function score(found) {
  const value = found.value === null ? "undefined" : `${found.value.toFixed(1)} (95 % interval ${found.low.toFixed(1)} to ${found.high.toFixed(1)})`;
  const how = found.folds === found.n ? "each note was asked about by a prompt that was learned without it" : `in ${found.folds} parts, each asked about by a prompt that was learned without it`;
  return el("p", { class: "score" }, el("b", {}, `${found.metric.replaceAll("_", " ")}: ${value}`), ` on ${found.n} notes; ${how}.`);
}

async function save(task, page) {
  try {
    download(await server.taskFile(task), `${task}.safetensors`);
  } catch (error) {
    page.fail(error);
  }
}

// Two tasks, or two versions of one, side by side, with what differs marked.

import { el, field } from "./dom.js";
import { highlighted } from "./highlight.js";
import { withArcs } from "./arcs.js";
import { marksOf, table } from "./answers.js";

const kind = (answer) => (answer.entities ? "entities" : answer.summary !== undefined ? "summary" : "value");

/** A part in which two of the answers can be chosen and compared. */
export function comparison(text, answers, hues) {
  const [left, right] = [0, 1].map((number) => {
    const select = el("select", {}, answers.map((answer, index) => el("option", { value: index }, answer.task)));
    select.value = String(number);
    return select;
  });
  const place = el("div");
  const draw = () => place.replaceChildren(...compared(text, answers[left.value], answers[right.value], hues));
  left.addEventListener("change", draw);
  right.addEventListener("change", draw);
  const box = el("details", { class: "card" }, el("summary", {}, el("h2", {}, "Compare")), el("div", { class: "row" }, field("Left", left), field("Right", right)), place);
  box.addEventListener("toggle", draw); // arcs need a width to be drawn in
  return box;
}

function compared(text, a, b, hues) {
  if (kind(a) !== kind(b)) return [el("p", {}, "These two answer in different ways: choose two that find entities, two that label, or two that summarize.")];
  if (kind(a) === "entities") return entities(text, a, b, hues);
  return kind(a) === "summary" ? summaries(a, b) : values(a, b);
}

const key = (entity) => JSON.stringify([entity.type, entity.spans]);

function entities(text, a, b, hues) {
  const [own, other] = [new Set(a.entities.map(key)), new Set(b.entities.map(key))];
  const same = [...own].filter((one) => other.has(one)).length;
  const spans = new Set(b.entities.map((entity) => JSON.stringify(entity.spans)));
  const retyped = a.entities.filter((entity) => !other.has(key(entity)) && spans.has(JSON.stringify(entity.spans))).length;
  const said = `${same} the same, ${own.size - same} only left, ${other.size - same} only right` + (retyped ? `; ${retyped} of them in the same place with another type` : "");
  const column = (answer, others) => {
    const { items, relations } = marksOf([answer], hues);
    for (const item of items) {
      item.differs = !others.has(item.key);
      if (item.differs) item.note = [item.note, "only here"].filter(Boolean).join(", ");
    }
    return el("div", {}, el("h3", {}, answer.task), withArcs(highlighted(text, items), relations));
  };
  return [el("p", {}, said, ". ", el("span", { class: "tag differs", "data-tag": "Only here" })), el("div", { class: "columns" }, column(a, other), column(b, own))];
}

function values(a, b) {
  const names = [...new Set([...Object.keys(a.probabilities || {}), ...Object.keys(b.probabilities || {})])];
  const [left, right] = [a.label ?? a.answer ?? "no answer", b.label ?? b.answer ?? "no answer"];
  const agree = left === right ? "Both say the same." : "They differ.";
  const cell = (value) => (value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);
  const rows = names.map((name) => {
    const [x, y] = [a.probabilities?.[name], b.probabilities?.[name]];
    return [name, cell(x), cell(y), x === undefined || y === undefined ? "" : `${y >= x ? "+" : "−"}${(100 * Math.abs(y - x)).toFixed(1)}`];
  });
  const top = ["Answer", left, right, left === right ? "" : "differs"];
  return [el("p", {}, agree), table(["", a.task, b.task, "Difference"], [top, ...rows])];
}

function summaries(a, b) {
  const [left, right] = [a.summary.split(/(\s+)/), b.summary.split(/(\s+)/)];
  const kept = common(left, right);
  const column = (answer, parts, common_) => el("div", {}, el("h3", {}, answer.task), el("p", { class: "text plain-text" }, parts.map((part, index) => (common_.has(index) || !part.trim() ? part : el("mark", { class: "word differs" }, part)))));
  return [el("p", { class: "quiet" }, "Words that only one of them says are marked."), el("div", { class: "columns" }, column(a, left, kept.left), column(b, right, kept.right))];
}

/** Indices of a longest common subsequence in both lists. */
function common(left, right) {
  const [n, m] = [Math.min(left.length, 2000), Math.min(right.length, 2000)];
  const best = Array.from({ length: n + 1 }, () => new Uint16Array(m + 1));
  for (let i = n - 1; i >= 0; i -= 1) for (let j = m - 1; j >= 0; j -= 1) best[i][j] = left[i] === right[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
  const found = { left: new Set(), right: new Set() };
  for (let i = 0, j = 0; i < n && j < m; ) {
    if (left[i] === right[j]) {
      found.left.add(i++);
      found.right.add(j++);
    } else if (best[i + 1][j] >= best[i][j + 1]) i += 1;
    else j += 1;
  }
  return found;
}

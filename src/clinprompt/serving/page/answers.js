// What tasks said about one note.

import { download, el, percent } from "./dom.js";
import { highlighted } from "./highlight.js";
import { withArcs } from "./arcs.js";
import { comparison } from "./compare.js";
import { Text } from "./points.js";
import * as server from "./server.js";

const HUES = 8;

/** All answers about a document, with downloads and comparison. */
export function answersView(document_, tasks, answers, page) {
  const text = new Text(document_.text);
  const hues = colours(answers);
  const view = el("section", { "aria-label": "Answers" }, downloads(document_, answers, page));
  const marking = answers.filter((answer) => answer.entities);
  if (marking.length) view.append(inPlace(text, marking, hues));
  const single = answers.filter((answer) => !answer.entities);
  if (single.length) view.append(el("div", { class: "grid" }, single.filter((a) => a.summary === undefined).map(single_)));
  for (const answer of single.filter((a) => a.summary !== undefined)) view.append(summary(answer, document_.text));
  view.append(unusable(answers));
  if (answers.length > 1) view.append(comparison(text, answers, hues));
  return view;
}

/** A colour for every task and type, in the order of appearance: the same type of two tasks has one colour. */
function colours(answers) {
  const known = new Map();
  const of = (type) => {
    if (!known.has(type)) known.set(type, known.size % HUES);
    return known.get(type);
  };
  for (const answer of answers) for (const entity of answer.entities || []) of(entity.type);
  return of;
}

/**
 * Entities of answers as items of a highlighted text, and relations between the items. What several tasks found alike is
 * one item, which names them.
 */
export function marksOf(answers, hues) {
  const items = [];
  const known = new Map();
  const relations = [];
  for (const answer of answers) {
    const own = new Map();
    for (const entity of answer.entities) {
      const key = JSON.stringify([entity.type, entity.spans]);
      if (!known.has(key)) {
        known.set(key, items.length);
        items.push({ type: entity.type, hue: hues(entity.type), spans: entity.spans, note: "", key });
      }
      own.set(entity.id, known.get(key));
      const sure = entity.confidence === undefined ? "" : `confidence ${percent(entity.confidence)}`;
      const note = [answers.length > 1 ? answer.task : "", sure].filter(Boolean).join(" ");
      const item = items[known.get(key)];
      item.note = [item.note, note].filter(Boolean).join(", ");
    }
    for (const one of answer.relations || []) {
      const [head, tail] = [own.get(one.head), own.get(one.tail)];
      if (head !== undefined && tail !== undefined) relations.push({ type: one.type, head, tail, hue: hues(`relation ${one.type}`) });
    }
  }
  return { items, relations };
}

function inPlace(text, answers, hues) {
  const shown = new Set(answers.map((answer) => answer.task));
  const place = el("div");
  const draw = () => {
    const { items, relations } = marksOf(answers.filter((one) => shown.has(one.task)), hues);
    place.replaceChildren(withArcs(highlighted(text, items), relations));
  };
  const switches = answers.length < 2 ? null : el("p", { class: "row" }, answers.map((answer) => {
    const box = el("input", { type: "checkbox", id: `show-${answer.task}`, checked: true });
    box.addEventListener("change", () => {
      if (box.checked) shown.add(answer.task);
      else shown.delete(answer.task);
      draw();
    });
    return el("span", { class: "check" }, box, el("label", { for: box.id }, `${answer.task} (${answer.entities.length})`));
  }));
  draw();
  const total = answers.reduce((sum, answer) => sum + answer.entities.length, 0);
  const counts = `${total} ${total === 1 ? "entity" : "entities"}`;
  return el("section", { class: "card", "aria-label": "In the note" }, el("h2", {}, "In the note ", el("small", { class: "quiet" }, counts)),
    switches, legend(answers, hues), place, tables(answers));
}

function legend(answers, hues) {
  const types = [...new Set(answers.flatMap((answer) => answer.entities.map((entity) => entity.type)))];
  return el("p", { class: "legend" }, types.map((type) => el("span", { style: { "--own": `var(--hue-${hues(type)})` } }, type)));
}

function tables(answers) {
  const entities = answers.flatMap((answer) => answer.entities.map((entity) => [entity.text, entity.type, answer.task, entity.spans.map((span) => span.join("–")).join(", "), percent(entity.confidence)]));
  const relations = answers.flatMap((answer) => {
    const words = new Map(answer.entities.map((entity) => [entity.id, entity.text]));
    return (answer.relations || []).map((one) => [words.get(one.head) ?? one.head, one.type, words.get(one.tail) ?? one.tail, answer.task, percent(one.confidence)]);
  });
  return [
    entities.length ? el("details", {}, el("summary", {}, "Entities as a table"), table(["Text", "Type", "Task", "Place", "Confidence"], entities)) : null,
    relations.length ? el("details", { open: true }, el("summary", {}, `Relations (${relations.length})`), table(["From", "Relation", "To", "Task", "Confidence"], relations)) : null,
  ];
}

export function table(heads, rows) {
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, cell)))))));
}

function single_(answer) {
  const value = answer.label ?? answer.answer;
  const sure = answer.confidence === undefined || answer.probabilities ? null : el("small", { class: "quiet" }, `confidence ${percent(answer.confidence)}`);
  return el("section", { class: "card", "aria-label": answer.task }, el("h2", {}, answer.task),
    el("p", { class: "answer" }, value || "no answer", " ", sure), answer.probabilities ? bars(answer.probabilities) : null);
}

/** Labels with their probabilities, the likeliest first. */
export function bars(probabilities) {
  const ordered = Object.entries(probabilities).sort((a, b) => b[1] - a[1]);
  return el("ul", { class: "bars" }, ordered.map(([label, value]) =>
    el("li", {}, el("span", {}, label), el("span", { class: "bar", "aria-hidden": "true" }, el("span", { style: { width: `${100 * value}%` } })), el("span", { class: "number" }, `${(100 * value).toFixed(1)} %`))));
}

function summary(answer, source) {
  return el("section", { class: "card", "aria-label": answer.task }, el("h2", {}, answer.task),
    el("div", { class: "columns" }, el("div", {}, el("h3", {}, "Summary"), el("p", { class: "text plain-text" }, answer.summary || "no summary")), el("div", {}, el("h3", {}, "Source"), el("p", { class: "text plain-text source" }, source))));
}

/** What the model said that is not in the note, or follows no format. */
function unusable(answers) {
  const lines = answers.flatMap((answer) => [
    ...(answer.ungrounded || []).map((one) => el("li", {}, el("q", {}, one.text), ` as ${one.type}`, el("small", { class: "quiet" }, ` ${answer.task}${one.confidence === undefined ? "" : `, confidence ${percent(one.confidence)}`}`))),
    ...(answer.malformed || []).map((part) => el("li", {}, el("q", {}, part), el("small", { class: "quiet" }, ` ${answer.task}, follows no format`))),
    ...(answer.omitted_characters ? [el("li", {}, `${answer.omitted_characters} characters of the note were not shown to ${answer.task}.`)] : []),
  ]);
  if (!lines.length) return "";
  return el("section", { class: "card warning", "aria-label": "Not in the note" }, el("h2", {}, "Not in the note ", el("small", { class: "quiet" }, "said by the model, and left out")), el("ul", { class: "plain-list" }, lines));
}

function downloads(document_, answers, page) {
  const save = (format, suffix) => async () => {
    try {
      page.clear();
      download(await server.written(format, document_, answers), suffix);
    } catch (error) {
      page.fail(error);
    }
  };
  const json = () => download(new Blob([JSON.stringify({ document: document_, answers }, null, 1)], { type: "application/json" }), "note.json");
  return el("p", { class: "row" }, el("span", { class: "quiet" }, "Download:"),
    el("button", { class: "plain", on: { click: json } }, "JSON"),
    answers.some((answer) => answer.entities) ? el("button", { class: "plain", on: { click: save("brat", "note.brat.zip") } }, "BRAT") : null,
    el("button", { class: "plain", on: { click: save("fhir", "note.fhir.json") } }, "FHIR"));
}

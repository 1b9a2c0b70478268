// Each task's card: what it is, what it saw, how well it did, what its prompt is made of.

import { bytes, download, el } from "./dom.js";
import { table } from "./answers.js";
import * as server from "./server.js";

export function cardsPart(panel, page) {
  const list = el("div", { class: "cards" });
  const refused = el("div");
  const shown = new Map();
  panel.append(list, refused);

  function refresh(found) {
    const names = new Set(page.tasks().map((task) => task.name + task.digest));
    for (const [name, node] of shown) {
      if (names.has(name)) continue;
      node.remove();
      shown.delete(name);
    }
    for (const task of page.tasks()) {
      if (shown.has(task.name + task.digest)) continue;
      const node = cardOf(task, page);
      shown.set(task.name + task.digest, node);
      const next = [...list.children].find((other) => other.dataset.name > task.name);
      list.insertBefore(node, next || null);
    }
    refused.replaceChildren(...(found.refused.length ? [el("section", { class: "card warning" }, el("h2", {}, "Files that are not served"), table(["File", "Why"], found.refused.map((one) => [one.name, one.reason])))] : []));
    if (!page.tasks().length) refused.append(el("p", { class: "quiet" }, "No task is served yet."));
  }
  return { refresh };
}

function cardOf(task, page) {
  const body = el("div");
  const box = el("details", { class: "card", "data-name": task.name }, el("summary", {}, el("h2", {}, task.name, " ", el("span", { class: "kind" }, task.type)), el("small", { class: "quiet" }, Object.keys(task.labels).join(", "))), body);
  let loaded = false;
  box.addEventListener("toggle", async () => {
    if (!box.open || loaded) return;
    loaded = true;
    try {
      fill(body, await server.card(task.name, task.digest), page);
    } catch (error) {
      loaded = false;
      page.fail(error);
    }
  });
  return box;
}

function fill(body, found, page) {
  const card = found.card;
  const own = card.tasks[0];
  const width = card.backbone.width;
  const save = async () => {
    try {
      download(await server.taskFile(found.name), found.file);
    } catch (error) {
      page.fail(error);
    }
  };
  const facts = [
    ["Task", own.name === found.name ? own.name : `${own.name}, served as ${found.name}`],
    ["Description", own.description],
    ["Instruction", own.instruction],
    ["Model", `${card.backbone.name} (${card.backbone.fingerprint})`],
    ["Method", [card.method, card.mode].filter(Boolean).join(", ")],
    ["Prompt", found.prompt_tokens && `${found.prompt_tokens} vectors of ${width} numbers: ${(found.prompt_tokens * width).toLocaleString("en")} parameters`],
    ["Adapter", !found.prompt_tokens && `${found.parameters.toLocaleString("en")} parameters inside the model`],
    ["File", `${found.file}, ${bytes(found.bytes)}, digest ${found.digest}`],
    ["Started from", card.metaprompt && `metaprompt ${card.metaprompt}`],
    ["Made with", card.library && `clinprompt ${card.library}`],
  ];
  const parts = [
    el("dl", {}, facts.filter(([, value]) => value).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]).flat()),
    labels(found.labels), scores(card.metrics || {}), data(card.data || []), settings(card.settings || {}), promptOf(found, page),
    el("p", { class: "row" }, el("button", { class: "plain", on: { click: save } }, "Download the task file"), el("button", { class: "plain", on: { click: () => page.open("read", found.name) } }, "Ask it")),
  ];
  body.append(...parts.flat());
}

function labels(known) {
  if (!Object.keys(known).length) return "";
  return [el("h3", {}, "Labels"), el("dl", {}, Object.entries(known).map(([label, about]) => [el("dt", {}, label), el("dd", {}, about || "–")]).flat())];
}

/** Scores as `evaluate --write` and teaching leave them in a card. */
function scores(metrics) {
  const rows = [];
  const number = (value) => (value === null || value === undefined ? "undefined" : value.toFixed(1));
  const row = (split, name, value, n) => rows.push([split, name, number(value.value), `${number(value.low)} to ${number(value.high)}`, n]);
  for (const [split, found] of Object.entries(metrics)) {
    if (typeof found === "number") rows.push([split.replaceAll("_", " "), "mean loss per token", found.toFixed(3), "", ""]);
    else if (found?.metrics) for (const [name, value] of Object.entries(found.metrics)) row(split, name, value, found.n);
    else if (found?.metric) row(split, found.metric, found, found.n);
  }
  return [el("h3", {}, "Scores"), rows.length ? table(["On", "Metric", "Value", "95 % interval", "Records"], rows) : el("p", { class: "quiet" }, "None are written in this card. `clinprompt evaluate --write` adds them.")];
}

function data(notes) {
  if (!notes.length) return [el("h3", {}, "Data it saw"), el("p", { class: "quiet" }, "The card names none.")];
  const permissive = (value) => (value === true ? "yes" : value === false ? "no" : "unknown");
  return [el("h3", {}, "Data it saw"), table(["Data", "Licence", "Permissive", "Records", "Examples"], notes.map((one) => [one.task, one.licence || "not given", permissive(one.permissive), one.records ?? 0, one.examples ?? 0]))];
}

function settings(found) {
  if (!Object.keys(found).length) return "";
  return el("details", {}, el("summary", {}, "How it was trained"), el("pre", {}, JSON.stringify(found, null, 1)));
}

function promptOf(found, page) {
  const [title, about] = found.prompt_tokens
    ? ["The prompt inspected", "The vocabulary's nearest tokens to each vector, by cosine. A soft prompt is not made of words: low values say so."]
    : ["What the adapter changes", "The norm of the change in each part of the model, and its ratio to what was there. Keys and values of a prefix stand where nothing was."];
  const box = el("details", {}, el("summary", {}, title), el("p", { class: "quiet" }, about));
  let loaded = false;
  box.addEventListener("toggle", async () => {
    if (!box.open || loaded) return;
    loaded = true;
    try {
      const view = await server.prompt(found.name);
      if (!view.known) box.append(el("p", {}, "This server's engine runs elsewhere, so its weights cannot be looked at."));
      else if (view.positions.length) box.append(vectors(view.positions));
      else box.append(table(["Part", "Norm", "Ratio"], view.changes.map((one) => [one.part, one.norm.toFixed(3), one.relative === null ? "" : one.relative.toPrecision(3)])));
    } catch (error) {
      loaded = false;
      page.fail(error);
    }
  });
  return box;
}

function vectors(positions) {
  const near = (one) => one.nearest.map((token) => el("span", { class: "token" }, el("code", {}, token.token), el("small", { class: "quiet" }, ` ${token.cosine.toFixed(2)}`)));
  return table(["Vector", "Norm", "Nearest tokens"], positions.map((one, index) => [index + 1, one.norm.toFixed(2), near(one)]));
}

// A task taught from a handful of notes: name it, mark or label, learn, ask.

import { bytes, download, el, field, fileButton, takesFiles, textsOf, unique } from "./dom.js";
import { curve } from "./curve.js";
import { Marker } from "./marking.js";
import { count } from "./points.js";
import * as server from "./server.js";

const QUESTION = "Which label fits this note?";

export function teachPart(panel, page) {
  const name = el("input", { type: "text", id: "teach-name", required: true, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,59}", autocomplete: "off", spellcheck: "false" });
  const kinds = ["entities", "labels"].map((value) => el("input", { type: "radio", name: "kind", value, id: `kind-${value}`, checked: value === "entities" }));
  const question = el("input", { type: "text", id: "teach-question", maxlength: "300", placeholder: QUESTION });
  const asked = field("What is asked of each note", question);
  const rows = el("div", { class: "label-rows" });
  const paste = el("textarea", { id: "teach-note", rows: 5, spellcheck: "false" });
  const notes = el("ol", { class: "notes" });
  const tally = el("p", { class: "quiet" });
  const steps = el("input", { type: "number", id: "teach-steps", min: "1" });
  const scored = el("input", { type: "checkbox", id: "teach-score", checked: true });
  const learn = el("button", { type: "button", class: "main", id: "learn", on: { click: begin } }, "Learn");
  const outcome = el("div", { id: "lesson" });
  const off = el("p", { class: "card warning", hidden: true });
  const form = el("div", {});
  let limits = null;
  let held = []; // {text, marker, choice, node}
  let lesson = null;

  const kind = () => kinds.find((radio) => radio.checked).value;
  const labels = () => [...new Set([...rows.querySelectorAll("input.name")].map((input) => input.value.trim()).filter(Boolean))];

  async function take(files) {
    try {
      add(await textsOf([...files]));
    } catch (error) {
      page.fail(error);
    }
  }

  function addRow(value = "") {
    const id = unique("label");
    const input = el("input", { type: "text", class: "name", id, value, maxlength: "60", autocomplete: "off" });
    const about = el("input", { type: "text", class: "about", maxlength: "200", "aria-label": "What the label means" });
    const row = el("div", { class: "row" }, el("label", { for: id }, "Label"), input, el("label", { class: "quiet" }, "means"), about,
      el("button", { type: "button", class: "plain small", "aria-label": "Remove this label", on: { click: () => { if (rows.children.length > 1) row.remove(); redraw(); } } }, "×"));
    input.addEventListener("change", redraw);
    rows.append(row);
    return input;
  }

  function add(texts) {
    page.clear();
    for (const text of texts.map((one) => one.replace(/^(\s*\n)+|\s+$/gu, "")).filter(Boolean)) {
      if (limits && held.length >= limits.notes) {
        page.fail(new Error(`A lesson may have ${limits.notes} notes.`));
        break;
      }
      if (limits && count(text) > limits.characters) {
        page.fail(new Error(`A note may have ${limits.characters.toLocaleString("en")} characters; one was left out.`));
        continue;
      }
      const note = { text, marker: new Marker(text, labels, counted, page.announce), group: unique("choice") };
      note.node = el("li", {});
      held.push(note);
      notes.append(note.node);
      draw(note);
    }
    counted();
  }

  function draw(note) {
    const remove = el("button", { type: "button", class: "plain small", on: { click: () => { held = held.filter((one) => one !== note); note.node.remove(); counted(); } } }, "Remove this note");
    if (kind() === "entities") {
      note.marker.draw();
      note.node.replaceChildren(note.marker.node, remove);
      return;
    }
    const known = labels();
    if (!known.includes(note.label)) note.label = null;
    const options = known.map((label) => {
      const radio = el("input", { type: "radio", name: note.group, value: label, id: unique("option"), checked: label === note.label });
      radio.addEventListener("change", () => { note.label = label; counted(); });
      return el("span", { class: "check" }, radio, el("label", { for: radio.id }, label));
    });
    note.node.replaceChildren(el("div", { class: "text plain-text" }, note.text), el("div", { class: "row", role: "radiogroup", "aria-label": "Label of this note" }, options), remove);
  }

  function redraw() {
    asked.hidden = kind() === "entities";
    held.forEach(draw);
    counted();
  }

  function counted() {
    const marks = held.reduce((sum, note) => sum + note.marker.marks.length, 0);
    const done = held.filter((note) => note.label).length;
    const what = kind() === "entities" ? `${marks} ${marks === 1 ? "mark" : "marks"}` : `${done} labelled`;
    tally.textContent = `${held.length} ${held.length === 1 ? "note" : "notes"}, ${what}. Ten to twenty notes are a good start. A note without marks says: there is nothing here.`;
    if (kind() === "labels") tally.textContent = tally.textContent.replace(/ A note without.*/, "");
  }

  function described() {
    const known = labels();
    const about = {};
    for (const row of rows.children) {
      const label = row.querySelector(".name").value.trim();
      if (label) about[label] = row.querySelector(".about").value.trim();
    }
    if (!name.value.trim()) throw new Error("The task has no name yet.");
    if (!name.checkValidity()) throw new Error("A task's name has letters, digits, dot, dash and underscore, and begins with a letter or a digit.");
    if (!known.length) throw new Error("The task has no labels yet.");
    if (!held.length) throw new Error("There is no note yet: paste one, or drop text files.");
    const without = held.findIndex((note) => kind() === "labels" && !note.label);
    if (without >= 0) throw new Error(`Note ${without + 1} has no label yet.`);
    return {
      name: name.value.trim(), kind: kind(), labels: about, question: kind() === "labels" ? question.value.trim() : "",
      steps: steps.value ? Number(steps.value) : null, score: scored.checked,
      notes: held.map((note) => (kind() === "entities" ? { text: note.text, entities: note.marker.entities() } : { text: note.text, label: note.label })),
    };
  }

  async function begin() {
    page.clear();
    try {
      lesson = await server.teach(described());
      page.announce("Learning has begun.");
      await follow(lesson);
    } catch (error) {
      page.fail(error);
    }
  }

  /** Asks for a lesson until it has ended. */
  async function follow(first) {
    learn.disabled = true;
    const losses = [...first.losses];
    let now = first;
    try {
      for (;;) {
        outcome.replaceChildren(...going(now, losses));
        if (!["learning", "scoring"].includes(now.state)) break;
        await new Promise((resolve) => setTimeout(resolve, 700));
        now = await server.lesson(first.id, losses.length);
        losses.push(...now.losses);
      }
    } finally {
      learn.disabled = false;
    }
    page.announce({ done: `${now.name} is learned and answers.`, failed: "Learning failed.", cancelled: "Learning was cancelled." }[now.state]);
    if (now.state === "done") await page.refresh();
  }

  function going(now, losses) {
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
        el("button", { type: "button", class: "plain", on: { click: () => save(now.name) } }, "Download the task file")));
    }
    return [el("section", { class: "card", "aria-label": "Lesson" }, parts)];
  }

  function score(found) {
    const value = found.value === null ? "undefined" : `${found.value.toFixed(1)} (95 % interval ${found.low.toFixed(1)} to ${found.high.toFixed(1)})`;
    const how = found.folds === found.n ? "each note was asked about by a prompt that was learned without it" : `in ${found.folds} parts, each asked about by a prompt that was learned without it`;
    return el("p", { class: "score" }, el("b", {}, `${found.metric.replaceAll("_", " ")}: ${value}`), ` on ${found.n} notes; ${how}.`);
  }

  async function save(task) {
    try {
      download(await server.taskFile(task), `${task}.safetensors`);
    } catch (error) {
      page.fail(error);
    }
  }

  kinds.forEach((radio) => radio.addEventListener("change", redraw));
  takesFiles(form, take);
  addRow();
  form.append(
    el("section", { class: "card" }, el("h2", {}, "1. The task"),
      field("Name", name, "Letters, digits, dot, dash, underscore; it is served under this name."),
      el("fieldset", { class: "row" }, el("legend", {}, "It finds"), kinds.map((radio) => el("span", { class: "check" }, radio, el("label", { for: radio.id }, radio.value === "entities" ? "entities in the note" : "one label for the note")))),
      rows, el("p", {}, el("button", { type: "button", class: "plain", on: { click: () => addRow().focus() } }, "Add a label")), asked),
    el("section", { class: "card" }, el("h2", {}, "2. Notes"),
      field("A note", paste, "A line of three dashes (---) between two notes tells them apart. Text files can be dropped anywhere here."),
      el("p", { class: "row" }, el("button", { type: "button", class: "plain", on: { click: () => { add(paste.value.split(/^-{3,}\s*$/m)); paste.value = ""; } } }, "Add"), fileButton("Open files…", take, true)),
      notes, tally),
    el("section", { class: "card" }, el("h2", {}, "3. Learn"),
      el("div", { class: "row" }, field("Steps", steps), el("span", { class: "check" }, scored, el("label", { for: "teach-score" }, "Score it on notes left out (takes longer)"))),
      el("p", {}, learn),
      el("p", { class: "quiet" }, "Notes are held in the server's memory until the lesson ends, or where its operator says; they are in no log and not in the task file."), outcome));
  panel.append(off, form);
  redraw();

  async function refresh() {
    try {
      limits = await server.teaching();
    } catch (error) {
      page.fail(error);
      return;
    }
    off.hidden = limits.allowed;
    form.hidden = !limits.allowed;
    off.textContent = limits.reason ? `Tasks cannot be taught here: ${limits.reason}` : "";
    steps.max = limits.most_steps;
    steps.placeholder = limits.steps;
    if (limits.going && !lesson) {
      // The page was loaded again while a lesson was under way.
      try {
        lesson = await server.lesson(limits.going, 0);
        follow(lesson).catch(page.fail);
      } catch {
        // Lessons are shown to keys that may manage; others are told of none.
      }
    }
  }
  return { refresh };
}

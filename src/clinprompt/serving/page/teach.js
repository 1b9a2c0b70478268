// A task taught from a handful of notes: name it, mark or label, learn, ask.

import { el, field, fileButton, takesFiles, textsOf, unique } from "./dom.js";
import { lessonView } from "./lesson.js";
import { Marker } from "./marking.js";
import { count } from "./points.js";
import * as server from "./server.js";

const QUESTION = "Which label fits this note?";
const KINDS = { entities: "entities in the note", relations: "relations between entities", labels: "one label for the note", answer: "a short answer", summary: "a summary" };
const WANTED = { answer: "The answer that is wanted", summary: "The summary that is wanted" };

export function teachPart(panel, page) {
  const name = el("input", { type: "text", id: "teach-name", required: true, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,59}", autocomplete: "off", spellcheck: "false" });
  const kinds = Object.keys(KINDS).map((value) => el("input", { type: "radio", name: "kind", value, id: `kind-${value}`, checked: value === "entities" }));
  const question = el("input", { type: "text", id: "teach-question", maxlength: "300" });
  const asked = field("What is asked of each note", question);
  const rows = el("div", { class: "label-rows" });
  const relationRows = el("div", { class: "label-rows", id: "relation-rows" });
  const another = el("button", { type: "button", class: "plain", on: { click: () => addRow(rows).focus() } });
  const labelled = el("div", {}, rows, el("p", {}, another));
  const related = el("div", {}, relationRows, el("p", {}, el("button", { type: "button", class: "plain", on: { click: () => addRow(relationRows).focus() } }, "Add a relation")));
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
  let held = []; // {text, marker, label, wanted, node}
  let lesson = null;

  const kind = () => kinds.find((radio) => radio.checked).value;
  const namesIn = (box) => [...new Set([...box.querySelectorAll("input.name")].map((input) => input.value.trim()).filter(Boolean))];
  const labels = () => namesIn(rows);
  const relations = () => (kind() === "relations" ? namesIn(relationRows) : null);
  const marks = () => ["entities", "relations"].includes(kind());

  async function take(files) {
    try {
      add(await textsOf([...files]));
    } catch (error) {
      page.fail(error);
    }
  }

  function addRow(box) {
    const what = box === rows ? "label" : "relation";
    const input = el("input", { type: "text", class: "name", id: unique(what), maxlength: "60", autocomplete: "off" });
    const about = el("input", { type: "text", class: "about", maxlength: "200", id: unique("about") });
    const row = el("div", { class: "row" }, el("label", { for: input.id, class: "what" }, what === "label" ? "Label" : "Relation"), input, el("label", { for: about.id, class: "quiet" }, "means"), about,
      el("button", { type: "button", class: "plain small", "aria-label": `Remove this ${what}`, on: { click: () => { if (box.children.length > 1) row.remove(); redraw(); } } }, "×"));
    input.addEventListener("change", redraw);
    box.append(row);
    nameRows();
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
      const note = { text, wanted: "", marker: new Marker(text, labels, relations, counted, page.announce), group: unique("choice") };
      note.node = el("li", {});
      held.push(note);
      notes.append(note.node);
      draw(note);
    }
    counted();
  }

  function draw(note) {
    const remove = el("button", { type: "button", class: "plain small", on: { click: () => { held = held.filter((one) => one !== note); note.node.remove(); counted(); } } }, "Remove this note");
    if (marks()) {
      note.marker.draw();
      note.node.replaceChildren(note.marker.node, remove);
      return;
    }
    const text = el("div", { class: "text plain-text" }, note.text);
    if (kind() !== "labels") {
      const wanted = el("textarea", { class: "wanted", rows: kind() === "summary" ? 3 : 1, maxlength: "4000", value: note.wanted, on: { input: () => { note.wanted = wanted.value; counted(); } } });
      note.node.replaceChildren(text, field(WANTED[kind()], wanted), remove);
      return;
    }
    const known = labels();
    if (!known.includes(note.label)) note.label = null;
    const options = known.map((label) => {
      const radio = el("input", { type: "radio", name: note.group, value: label, id: unique("option"), checked: label === note.label });
      radio.addEventListener("change", () => { note.label = label; counted(); });
      return el("span", { class: "check" }, radio, el("label", { for: radio.id }, label));
    });
    note.node.replaceChildren(text, el("div", { class: "row", role: "radiogroup", "aria-label": "Label of this note" }, options), remove);
  }

  /** What is labelled in relation tasks is an entity, whose label is its type. */
  function nameRows() {
    const type = kind() === "relations";
    another.textContent = type ? "Add an entity type" : "Add a label";
    for (const label of rows.querySelectorAll(".what")) label.textContent = type ? "Entity type" : "Label";
  }

  function redraw() {
    labelled.hidden = kind() in WANTED;
    related.hidden = kind() !== "relations";
    asked.hidden = !["labels", "answer"].includes(kind());
    question.placeholder = kind() === "labels" ? QUESTION : "";
    nameRows();
    held.forEach(draw);
    counted();
  }

  function counted() {
    const of = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;
    const sum = (size) => held.reduce((all, note) => all + size(note), 0);
    const done = {
      entities: () => of(sum((note) => note.marker.marks.length), "mark"),
      relations: () => `${of(sum((note) => note.marker.marks.length), "mark")}, ${of(sum((note) => note.marker.related.pairs.length), "relation")}`,
      labels: () => `${held.filter((note) => note.label).length} labelled`,
      answer: () => `${held.filter((note) => note.wanted.trim()).length} answered`,
      summary: () => `${held.filter((note) => note.wanted.trim()).length} summarised`,
    }[kind()]();
    tally.textContent = `${of(held.length, "note")}, ${done}. Ten to twenty notes are a good start.${marks() ? " A note without marks says: there is nothing here." : ""}`;
  }

  function meanings(box) {
    const about = {};
    for (const row of box.children) {
      const label = row.querySelector(".name").value.trim();
      if (label) about[label] = row.querySelector(".about").value.trim();
    }
    return about;
  }

  function described() {
    if (!name.value.trim()) throw new Error("The task has no name yet.");
    if (!name.checkValidity()) throw new Error("A task's name has letters, digits, dot, dash and underscore, and begins with a letter or a digit.");
    if (!(kind() in WANTED) && !labels().length) throw new Error(`The task has no ${kind() === "relations" ? "entity types" : "labels"} yet.`);
    if (relations()?.length === 0) throw new Error("The task has no relations yet.");
    if (kind() === "answer" && !question.value.trim()) throw new Error("The task asks nothing yet: write what is asked of each note.");
    if (!held.length) throw new Error("There is no note yet: paste one, or drop text files.");
    const lacks = { labels: (note) => !note.label, answer: (note) => !note.wanted.trim(), summary: (note) => !note.wanted.trim() }[kind()];
    const without = lacks ? held.findIndex(lacks) : -1;
    if (without >= 0) throw new Error(`Note ${without + 1} has no ${kind() === "labels" ? "label" : kind()} yet.`);
    return {
      name: name.value.trim(), kind: kind(), labels: kind() in WANTED ? {} : meanings(rows), relations: relations() ? meanings(relationRows) : {},
      question: asked.hidden ? "" : question.value.trim(), steps: steps.value ? Number(steps.value) : null, score: scored.checked,
      notes: held.map(taught),
    };
  }

  function taught(note) {
    if (kind() === "labels") return { text: note.text, label: note.label };
    if (kind() in WANTED) return { text: note.text, wanted: note.wanted.trim() };
    const found = { text: note.text, entities: note.marker.entities() };
    return relations() ? { ...found, relations: note.marker.related.relations() } : found;
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
        outcome.replaceChildren(lessonView(now, losses, page));
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

  kinds.forEach((radio) => radio.addEventListener("change", redraw));
  takesFiles(form, take);
  addRow(rows);
  addRow(relationRows);
  form.append(
    el("section", { class: "card" }, el("h2", {}, "1. The task"),
      field("Name", name, "Letters, digits, dot, dash, underscore; it is served under this name."),
      el("fieldset", { class: "row" }, el("legend", {}, "It gives"), kinds.map((radio) => el("span", { class: "check" }, radio, el("label", { for: radio.id }, KINDS[radio.value])))),
      labelled, related, asked),
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

// Marking spans in a note, with the mouse or with keys.

import { withArcs } from "./arcs.js";
import { el, unique } from "./dom.js";
import { highlighted, said, selectedIn } from "./highlight.js";
import { Text } from "./points.js";
import { Relater } from "./relating.js";

const HELP = "Arrow keys go from word to word, with Shift they take more words. A digit marks with that label, Plus adds to the last mark, Delete takes away a mark here.";

/**
 * A note whose spans can be marked. `labels()`: the labels now; `relations()`: names of relations between two marks, null
 * where there are none; `changed()`: called after every change.
 */
export class Marker {
  constructor(text, labels, relations, changed, announce) {
    this.text = new Text(text);
    this.marks = []; // {type, spans}
    this.pending = null; // the span that the next label is for
    this.word = -1; // before the first
    this.from = 0;
    this.labels = labels;
    this.relations = relations;
    this.changed = changed;
    this.announce = announce;
    this.words = this.text.words();
    const help = el("small", { class: "unseen", id: unique("help") }, HELP);
    this.box = el("div", { class: "marking", tabindex: "0", role: "application", "aria-label": "Note to mark", "aria-describedby": help.id });
    this.bar = el("div", { class: "row labels", role: "group", "aria-label": "Labels for what is selected" });
    this.list = el("ul", { class: "marks", "aria-label": "Marks" });
    this.related = new Relater(this.text, () => this.relations() || [], () => { this.draw(); this.changed(); }, announce);
    this.node = el("div", {}, this.box, help, this.bar, this.list, this.related.node);
    this.box.addEventListener("keydown", (event) => this.onKey(event));
    this.box.addEventListener("mouseup", () => this.onMouse());
    this.draw();
  }

  /** The marks as the server wants them. */
  entities() {
    return this.marks.map(({ type, spans }) => ({ type, spans }));
  }

  /** Draws again, after labels were changed: marks of a label that is gone go too. */
  draw() {
    const labels = this.labels();
    this.marks = this.marks.filter((mark) => labels.includes(mark.type));
    const items = this.marks.map((mark) => ({ ...mark, hue: labels.indexOf(mark.type) % 8 }));
    const cursor = this.pending ? [{ type: "selected", hue: 8, spans: [this.pending], plain: true }] : [];
    const related = this.relations();
    this.related.node.hidden = !related;
    if (related) this.related.draw(this.marks);
    this.box.replaceChildren(withArcs(highlighted(this.text, [...items, ...cursor], { focusable: false }), related ? this.related.arcs() : []));
    this.bar.replaceChildren(
      ...labels.map((label, index) => el("button", { type: "button", class: "label", disabled: !this.pending, style: { "--own": `var(--hue-${index % 8})` }, on: { click: () => this.mark(label) } },
        index < 9 ? el("kbd", { "aria-hidden": "true" }, String(index + 1)) : null, label)),
      el("button", { type: "button", class: "plain", disabled: !this.pending || !this.marks.length, on: { click: () => this.extend() } }, el("kbd", { "aria-hidden": "true" }, "+"), "Add to the last mark"));
    this.list.replaceChildren(...items.map((item, index) => el("li", { style: { "--own": `var(--hue-${item.hue})` } }, said(this.text, item),
      el("button", { type: "button", class: "plain small", "aria-label": `Remove ${said(this.text, item)}`, on: { click: () => this.remove(index) } }, "×"))));
  }

  mark(type) {
    if (!this.pending) return;
    const span = this.pending;
    const known = this.marks.some((one) => one.type === type && one.spans.length === 1 && one.spans[0][0] === span[0] && one.spans[0][1] === span[1]);
    if (!known) this.marks.push({ type, spans: [span] });
    this.marks.sort((a, b) => a.spans[0][0] - b.spans[0][0] || b.spans.at(-1)[1] - a.spans.at(-1)[1]);
    this.last = this.marks.find((one) => one.type === type && one.spans[0][0] === span[0]);
    this.done(`Marked: ${said(this.text, { type, spans: [span] })}`);
  }

  /** The selected words become a further part of the mark that was made last. */
  extend() {
    const last = this.marks.includes(this.last) ? this.last : this.marks.at(-1);
    if (!this.pending || !last) return;
    const spans = [...last.spans, this.pending].sort((a, b) => a[0] - b[0]);
    if (spans.some(([start], i) => i && start < spans[i - 1][1])) return this.announce("These words are part of that mark already.");
    last.spans = spans;
    this.done(`Added to: ${said(this.text, last)}`);
  }

  remove(index) {
    const [gone] = this.marks.splice(index, 1);
    this.done(`Removed: ${said(this.text, gone)}`);
  }

  done(text) {
    this.pending = null;
    getSelection().removeAllRanges();
    this.draw();
    this.box.focus();
    this.announce(text);
    this.changed();
  }

  onMouse() {
    const span = selectedIn(this.box.firstChild);
    const pending = span && this.text.trimmed(span);
    if (!pending) return;
    this.pending = pending;
    this.from = Math.max(0, this.words.findIndex(([, end]) => end > pending[0]));
    this.word = Math.max(this.from, this.words.findLastIndex(([start]) => start < pending[1]));
    getSelection().removeAllRanges();
    this.draw();
    this.announce(`Selected: ${this.text.slice(...pending)}`);
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.words.length) return;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -1e9, End: 1e9 }[event.key];
    const label = this.labels()[Number(event.key) - 1];
    if (step) this.move(step, event.shiftKey);
    else if (/^[1-9]$/.test(event.key) && label) this.mark(label);
    else if (event.key === "+") this.extend();
    else if (event.key === "Escape" && this.pending) this.done("Nothing is selected.");
    else if ((event.key === "Delete" || event.key === "Backspace") && this.pending) this.removeHere();
    else return;
    event.preventDefault();
  }

  move(step, more) {
    this.word = Math.min(this.words.length - 1, Math.max(0, this.word + step));
    if (!more) this.from = this.word;
    const [first, last] = [Math.min(this.from, this.word), Math.max(this.from, this.word)];
    this.pending = [this.words[first][0], this.words[last][1]];
    this.draw();
    this.announce(this.text.slice(...this.pending));
  }

  removeHere() {
    const [start, end] = this.pending;
    const index = this.marks.findIndex((mark) => mark.spans.some(([s, e]) => s < end && start < e));
    if (index >= 0) this.remove(index);
    else this.announce("There is no mark here.");
  }
}

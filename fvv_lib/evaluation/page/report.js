"use strict";
// Draws curves and questions from the data of the page. Texts are only ever set as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE_SIZE = 25;
const SVG = "http://www.w3.org/2000/svg";

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// --- curves ---------------------------------------------------------------------------------------------------------

function draw(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

function ticks(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const first = Math.floor(low / step + 1e-9);
  const count = Math.ceil(high / step - 1e-9) - first;
  return Array.from({ length: count + 1 }, (_, place) => Number(((first + place) * step).toPrecision(12)));
}

function short(value) {
  return value !== 0 && Math.abs(value) < 0.001 ? value.toExponential() : String(value);
}

function range(values) {
  const low = values.reduce((one, other) => Math.min(one, other));
  const high = values.reduce((one, other) => Math.max(one, other));
  return low < high ? [low, high] : [low - Math.abs(low || 1) / 2, high + Math.abs(high || 1) / 2];
}

function chart({ title, lines }) {
  const [width, height, left, bottom, top, right] = [480, 260, 62, 42, 10, 16];
  const points = Object.values(lines).flat();
  const known = points.filter(([, value]) => value !== null);
  const unknown = points.length - known.length;
  const figure = make("figure", {}, make("figcaption", { textContent: title }));
  const legend = make("div", { className: "note legend" });
  if (known.length) {
    const steps = ticks(...range(known.map(([step]) => step))).filter(Number.isInteger);
    const values = ticks(...range([0, ...known.map(([, value]) => value)]));
    const [x0, x1, y0, y1] = [steps[0], steps.at(-1), values[0], values.at(-1)];
    const x = (step) => left + ((step - x0) / (x1 - x0 || 1)) * (width - left - right);
    const y = (value) => height - bottom - ((value - y0) / (y1 - y0)) * (height - top - bottom);
    const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    for (const value of values) {
      picture.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
      picture.append(draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
    }
    for (const step of steps) {
      picture.append(draw("text", { x: x(step), y: height - 22, "text-anchor": "middle" }, step));
    }
    picture.append(draw("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, "step"));
    const says = [];
    Object.entries(lines).forEach(([name, all], place) => {
      const second = place ? " second" : "";
      let path = "";
      let pen = "M";
      for (const [step, value] of all) {
        if (value !== null) path += `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = value === null ? "M" : "L";
      }
      picture.append(draw("path", { class: `line${second}`, d: path }));
      const there = all.filter(([, value]) => value !== null);
      for (const [step, value] of there.length <= 12 ? there : []) {
        const dot = draw("circle", { class: `dot${second}`, cx: x(step), cy: y(value), r: 3.5 });
        dot.append(draw("title", {}, `${name}: ${value} at step ${step}`));
        picture.append(dot);
      }
      if (there.length) says.push(`${name} from ${there[0][1]} to ${there.at(-1)[1]}`);
      legend.append(make("span", {}, make("i", { className: `key${second}` }), name));
    });
    picture.setAttribute("aria-label", `${title}: ${says.join("; ")}`);
    figure.append(picture);
  }
  figure.append(legend);
  if (unknown) figure.append(make("p", { className: "note", textContent: `${unknown} values are not finite numbers.` }));
  return figure;
}

if (data.charts.length) document.getElementById("charts").append(...data.charts.map(chart));

// --- questions ------------------------------------------------------------------------------------------------------

function strip(number) {
  const medium = data.media[number];
  const name = make("div", { className: "name", textContent: medium.name });
  if (medium.note !== undefined) return make("div", {}, name, make("p", { className: "note", textContent: medium.note }));
  const frames = medium.frames.map((source, place) => {
    const alt = `frame ${place + 1}`;
    const label = medium.total > 1 ? `${medium.times[place].toFixed(2)} s` : "";
    return make("li", {}, make("img", { src: source, alt }), label);
  });
  const box = make("div", {}, name, make("ul", { className: "strip" }, ...frames));
  if (medium.total > frames.length) {
    const text = `${frames.length} of the ${medium.total} frames that the model saw, evenly spread`;
    box.append(make("p", { className: "note", textContent: text }));
  }
  return box;
}

function term(name, chosen = false) {
  return make("dt", { textContent: name, className: chosen ? "chosen" : "" });
}

function given({ text, right }) {
  const mark = make("b", { textContent: right ? " ✓ right" : " ✗ wrong" });
  return make("dd", { className: right ? "right" : "wrong" }, text || "(empty)", mark);
}

function card(question, view) {
  const kind = question.kind === null ? "" : ` · ${question.kind}`;
  const box = make("article", { className: question.answers[view].right ? "right" : "wrong" });
  box.append(make("h3", { textContent: `${question.id}${kind}` }));
  box.append(...question.media.map(strip));
  if (question.history.length) {
    const turns = question.history.map((text) => make("p", { className: "text", textContent: text }));
    const summary = make("summary", { textContent: `${question.history.length} turns before` });
    box.append(make("details", {}, summary, ...turns));
  }
  box.append(make("p", { className: "text", textContent: question.question }));
  const list = make("dl");
  if (question.choices.length) list.append(term("choices"), make("dd", { textContent: question.choices.join(" / ") }));
  list.append(term("expected"), make("dd", { textContent: question.expected }));
  for (const name of data.views) {
    if (question.answers[name]) list.append(term(name, name === view), given(question.answers[name]));
  }
  box.append(list);
  return box;
}

function searched(question) {
  const answers = Object.values(question.answers).map((answer) => answer.text);
  const files = question.media.map((number) => data.media[number].name);
  const texts = [question.id, question.question, question.expected, ...question.history, ...answers, ...files];
  return texts.join("\n").toLowerCase();
}

function results(first, view) {
  const kept = { "": "all", wrong: "wrong answers", right: "right answers" };
  if (view === first) return kept;
  return { ...kept, lost: `right ${first}, wrong ${view}`, gained: `wrong ${first}, right ${view}` };
}

function isShown(question, { dataSet, kind, view, result, words }, first) {
  const answer = question.answers[view];
  if (!answer || (dataSet && question.data !== dataSet) || (kind && question.kind !== kind)) return false;
  if ((result === "wrong" && answer.right) || (result === "right" && !answer.right)) return false;
  if (result === "lost" && !(question.answers[first].right && !answer.right)) return false;
  if (result === "gained" && !(!question.answers[first].right && answer.right)) return false;
  return words.every((word) => question.searched.includes(word));
}

function start() {
  const form = document.getElementById("filters");
  const [list, count, label] = ["list", "count", "page"].map((id) => document.getElementById(id));
  const [previous, next] = ["previous", "next"].map((id) => document.getElementById(id));
  const first = data.views[0];
  let shown = [];
  let page = 0;

  function fill(select, options) {
    const before = select.value;
    select.replaceChildren(...Object.entries(options).map(([value, text]) => new Option(text, value)));
    select.value = before in options ? before : Object.keys(options)[0];
  }

  function names(key) {
    const found = [...new Set(data.questions.map((question) => question[key]).filter((name) => name !== null))].sort();
    document.getElementById(`of-${key}`).hidden = found.length < 2;
    for (const name of found) form.elements[key].append(new Option(name, name));
  }

  function write() {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE_SIZE));
    const some = shown.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
    list.replaceChildren(...some.map((question) => card(question, form.elements.view.value)));
    label.textContent = `page ${page + 1} of ${pages}`;
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
  }

  function filter() {
    const view = form.elements.view.value;
    fill(form.elements.result, results(first, view));
    const words = form.elements.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const [dataSet, kind] = [form.elements.data.value, form.elements.kind.value];
    const wanted = { dataSet, kind, view, words, result: form.elements.result.value };
    shown = data.questions.filter((question) => isShown(question, wanted, first));
    page = 0;
    count.textContent = `${shown.length} of ${data.questions.length} questions`;
    write();
  }

  function turn(by) {
    page += by;
    write();
    document.getElementById("questions").scrollIntoView();
    document.getElementById("questions").focus({ preventScroll: true });
  }

  for (const question of data.questions) question.searched = searched(question);
  names("data");
  names("kind");
  for (const view of data.views) form.elements.view.append(new Option(view, view));
  form.elements.view.value = data.main;
  document.getElementById("of-view").hidden = data.views.length < 2;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  filter();
}

if (data.questions.length) start();

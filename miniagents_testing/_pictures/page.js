"use strict";
// Adds lanes and playing to the transcript. Times are ticks of 10 µs, lengths are UTF-16 units.

const SECOND = 100_000;
const byId = (id) => document.getElementById(id);
const run = JSON.parse(byId("run").textContent);
const end = Math.max(1, run.end);
const [player, play, slider, clock, speed, zoom, lanes, wide, head] = [
  "player", "play", "time", "clock", "speed", "zoom", "lanes", "wide", "head",
].map(byId);

const make = (name, properties, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

const spoken = (ticks) => {
  const seconds = ticks / SECOND;
  if (end < 100 * SECOND) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
};

// The sums of differences: what a page has for each token is the wait before it, and what came.
const sums = (differences, first) => {
  let sum = first;
  return differences.map((difference) => (sum += difference));
};

// A long part becomes blocks of whole lines, so that the browser has to lay out the last one only.
const blocksOf = (part) => {
  const texts = part.textContent.match(/[^]{1000}[^\n]*\n|[^]+$/g) ?? [""];
  const blocks = texts.length > 1 ? texts.map((text) => make("div", { textContent: text })) : [part];
  if (texts.length > 1) part.replaceChildren(...blocks);
  return blocks.map((block, number) => ({ block, text: texts[number], size: texts[number].length }));
};

const requests = run.requests.map(([number, lane, start, end, failed, waits, lengths]) => {
  const card = byId(`r${number}`);
  return {
    card, lane, start, end, failed, number,
    name: `Request ${number}, ${run.lanes[lane]}, ${spoken(start)} to ${spoken(end)}`,
    ending: card.querySelector(".ending"),
    moments: sums(waits, start),
    lengths: sums(lengths, 0),
    blocks: [...card.querySelectorAll(".part")].flatMap(blocksOf),
    shown: -1,
  };
});
const tools = run.tools.map(([number, lane, start, end, failed, tool]) => ({
  card: byId(`r${number}`), lane, start, end, failed, tool,
  name: `Tool ${tool} for request ${number}, ${spoken(start)} to ${spoken(end)}`,
}));
const rounds = [...document.querySelectorAll(".together")];

// The length of the text of an answer that had come by a moment.
function lengthAt(request, moment) {
  if (moment >= request.end) return Infinity;
  let low = 0;
  let high = request.moments.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (request.moments[middle] <= moment) low = middle + 1;
    else high = middle;
  }
  return low ? request.lengths[low - 1] : 0;
}

function showRequest(request, moment) {
  const begun = moment >= request.start;
  const length = begun ? lengthAt(request, moment) : -1;
  if (length === request.shown) return;
  request.shown = length;
  request.card.hidden = !begun;
  request.ending.hidden = length < Infinity;
  let before = 0;
  for (const each of request.blocks) {
    const size = Math.max(0, Math.min(each.text.length, length - before));
    if (size !== each.size) each.block.textContent = each.text.slice(0, (each.size = size));
    before += each.text.length;
  }
}

let now = end;
function show(moment) {
  now = Math.max(0, Math.min(end, moment));
  for (const request of requests) showRequest(request, now >= end ? Infinity : now);
  for (const { bar, start, end } of bars) {
    const share = now >= end ? 1 : now <= start ? 0 : (now - start) / (end - start);
    if (share !== bar.share) bar.lastChild.style.clipPath = `inset(0 ${100 - 100 * (bar.share = share)}% 0 0)`;
  }
  head.style.left = `${(100 * now) / end}%`;
  slider.value = now;
  clock.textContent = `${spoken(now)} of ${spoken(end)}`;
  slider.setAttribute("aria-valuetext", spoken(now));
}

// Lanes: one row of bars for each agent, more where its requests overlap.

function ticksOf(item) {
  const places = Math.max(20, Math.ceil((3000 * (item.end - item.start)) / end));
  const share = (moment) => Math.round((places * (moment - item.start)) / Math.max(1, item.end - item.start));
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", `0 0 ${places} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("vector-effect", "non-scaling-stroke");
  path.setAttribute("d", [...new Set((item.moments ?? []).map(share))].map((place) => `M${place} 0V1`).join(""));
  svg.append(path);
  return svg;
}

function addBar(item, lane) {
  let row = lane.rows.findIndex((free) => free <= item.start);
  if (row < 0) row = lane.rows.push(0) - 1;
  lane.rows[row] = Math.max(item.end, item.start + end / 150);
  const label = make("b", { textContent: item.tool ?? item.number });
  const kind = `bar c${item.lane % 8}${item.tool === undefined ? "" : " tool"}${item.failed ? " failed" : ""}`;
  const bar = make("a", { className: kind, href: `#${item.card.id}`, tabIndex: -1, title: item.name });
  bar.append(ticksOf(item), label, make("span", { className: "done" }));
  bar.setAttribute("aria-label", item.failed ? `${item.name}, failed: ${item.failed}` : item.name);
  bar.style.left = `${(100 * item.start) / end}%`;
  bar.style.width = `${(100 * (item.end - item.start)) / end}%`;
  bar.style.top = `${row * 28}px`;
  bar.addEventListener("click", () => choose(item));
  bar.addEventListener("keydown", (event) => {
    const next = neighbour(item, event.key);
    if (next) moveTo(next.bar, event);
  });
  lane.track.append(bar);
  item.bar = bar;
}

const rows = run.lanes.map((name, number) => {
  const label = make("div", { className: "name", textContent: name, title: name });
  const track = make("div", { className: "track" });
  wide.append(make("div", { className: `lane c${number % 8}` }, label, track));
  return { track, rows: [] };
});
const bars = [...requests, ...tools].sort((one, other) => one.start - other.start);
for (const item of bars) addBar(item, rows[item.lane]);
for (const { track, rows: { length } } of rows) track.style.height = `${length * 28 - 4}px`;
if (bars.length) bars[0].bar.tabIndex = 0;

// Arrow keys move to the bar before or after in the lane, and to the nearest one of the lane above or below.
function neighbour(item, key) {
  const place = bars.indexOf(item);
  const inLane = (other) => other.lane === item.lane;
  if (key === "ArrowRight") return bars.slice(place + 1).find(inLane);
  if (key === "ArrowLeft") return bars.slice(0, place).findLast(inLane);
  const lane = item.lane + { ArrowUp: -1, ArrowDown: 1 }[key];
  const there = bars.filter((other) => other.lane === lane);
  const distance = (other) => Math.abs(other.start - item.start);
  return there.sort((one, other) => distance(one) - distance(other))[0];
}

function moveTo(bar, event) {
  event.preventDefault();
  wide.querySelector(".bar[tabindex='0']").tabIndex = -1;
  bar.tabIndex = 0;
  bar.focus();
}

// The link of a bar leads to its card; it is shown whole, also if its time has not come yet.
function choose(item) {
  pause();
  show(Math.max(now, item.end));
  for (const each of document.querySelectorAll(".chosen")) each.classList.remove("chosen");
  item.bar.classList.add("chosen");
  requestAnimationFrame(() => item.card.focus({ preventScroll: true }));
}

function addAxis() {
  const axis = make("div", { className: "axis", ariaHidden: "true" });
  const steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 86400];
  const most = Math.max(2, (wide.clientWidth - 150) / 90);
  const step = (steps.find((each) => end / SECOND / each <= most) ?? 864000) * SECOND;
  for (let moment = 0; moment < end; moment += step) {
    const seconds = `${Number((moment / SECOND).toFixed(2))} s`;
    const mark = make("span", { textContent: end < 100 * SECOND ? seconds : spoken(moment) });
    mark.style.left = `${(100 * moment) / end}%`;
    axis.append(mark);
  }
  for (const moment of run.pauses) {
    const mark = make("span", { className: "cut", textContent: "pause" });
    mark.style.left = `${(100 * moment) / end}%`;
    axis.append(mark);
  }
  wide.querySelector(".axis")?.remove();
  wide.prepend(axis);
}

// Playing.

let playing = false;
let follows = false;
let last = 0;
let followed = 0;

function frame(stamp) {
  if (!playing) return;
  show(now + ((stamp - last) / 1000) * SECOND * Number(speed.value));
  last = stamp;
  if (follows && stamp - followed > 200) follow(stamp);
  if (now >= end) pause();
  else requestAnimationFrame(frame);
}

// Keeps what is growing above the lower edge of the window, and the moment inside the lanes.
function follow(stamp) {
  followed = stamp;
  const growing = rounds.findLast((round) => !round.firstElementChild.hidden);
  const below = growing ? growing.getBoundingClientRect().bottom - innerHeight : 0;
  if (below > 0) scrollBy({ top: below + 24 });
  if (zoom.value > 1) lanes.scrollLeft = (now / end) * wide.clientWidth - lanes.clientWidth / 2;
}

function start() {
  if (now >= end) {
    show(0);
    scrollTo({ top: 0 });
  }
  playing = follows = true;
  last = performance.now();
  play.textContent = "Pause";
  requestAnimationFrame(frame);
}

function pause() {
  playing = false;
  play.textContent = "Play";
}

play.addEventListener("click", () => (playing ? pause() : start()));
slider.addEventListener("input", () => {
  pause();
  show(Number(slider.value));
});
zoom.addEventListener("change", () => {
  wide.style.width = `${100 * zoom.value}%`;
  addAxis();
  lanes.scrollLeft = (now / end) * wide.clientWidth - lanes.clientWidth / 2;
});
for (const kind of ["wheel", "touchmove"]) addEventListener(kind, () => (follows = false), { passive: true });
wide.addEventListener("click", (event) => {
  if (!event.target.classList.contains("track")) return;
  pause();
  show((event.offsetX / event.target.clientWidth) * end);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== " " || event.target !== document.body) return;
  event.preventDefault();
  play.click();
});

player.hidden = !requests.length;
slider.max = end;
addAxis();
show(end);
const fit = () => (document.documentElement.style.scrollPaddingTop = `${player.offsetHeight + 8}px`);
addEventListener("beforeprint", () => {
  pause();
  show(end);
});
addEventListener("resize", () => {
  fit();
  addAxis();
});
fit();

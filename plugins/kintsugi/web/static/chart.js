// Two charts of the flow with uPlot; the newest figures are also shown as text.
"use strict";

const REFRESH_MS = 10000;
const HEIGHT = 130;
const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
let charts = [];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function options(width, lines) {
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  return {
    width, height: HEIGHT, legend: { show: false }, cursor: { y: false },
    scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
    axes: [{ ...axis, grid: { show: false }, values: (_, ticks) => ticks.map((tick) => clock.format(tick * 1000)) }, { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => tick.toLocaleString("en")) }],
    series: [{}, ...lines.map((name) => ({ stroke: colour(name), width: 1.5, points: { show: false } }))],
  };
}

function draw(id, data, lines) {
  const place = document.getElementById(id);
  place.replaceChildren();
  if (data[0].length < 2) { place.textContent = "Not enough readings yet."; return; }
  charts.push(new uPlot(options(place.clientWidth, lines), data, place));
}

const last = (values) => values.findLast((value) => value !== null);
const say = (value) => (value === undefined ? "unknown" : Math.round(value).toLocaleString("en"));

async function refresh() {
  const place = document.getElementById("charts");
  const answer = await fetch(place.dataset.series).catch(() => null);
  if (!answer?.ok) return;
  const flow = await answer.json();
  charts.forEach((chart) => chart.destroy());
  charts = [];
  draw("chart-rate", [flow.at, flow.in, flow.out], ["--in", "--out"]);
  draw("chart-lag", [flow.at, flow.lag], ["--in"]);
  document.getElementById("said-rate").textContent = `now ${say(last(flow.in))} in, ${say(last(flow.out))} stored`;
  const highest = Math.max(...flow.lag.filter((value) => value !== null), 0);
  document.getElementById("said-lag").textContent = `now ${say(last(flow.lag))}, highest ${say(highest)}`;
}

addEventListener("DOMContentLoaded", () => {
  refresh();
  setInterval(() => { if (!document.hidden) refresh(); }, REFRESH_MS);
  document.addEventListener("themed", refresh);
  addEventListener("resize", () => { clearTimeout(window.redraw); window.redraw = setTimeout(refresh, 200); });
});

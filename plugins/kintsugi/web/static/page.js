// What HTML alone can't do: Airflow's theme, relative times, polling, dialogs, links out of Airflow's frame.
"use strict";

const framed = window.parent !== window;

function theme() {
  const chosen = localStorage.getItem("theme"); // Airflow keeps its choice here
  const dark = chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  document.dispatchEvent(new Event("themed"));
}

// The script runs in the head, so that no page flashes in the wrong colours.
theme();
addEventListener("storage", theme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);

const units = [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];
const ago = new Intl.RelativeTimeFormat("en", { numeric: "always" });

function age() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const seconds = Math.max(0, (Date.now() - Date.parse(time.dateTime)) / 1000);
    const [size, unit] = units.find(([size]) => seconds >= size) ?? units[3];
    const count = Math.round(seconds / size);
    const said = "lasting" in time.dataset ? `for ${count} ${unit}${count === 1 ? "" : "s"}` : ago.format(-count, unit);
    if (time.textContent !== said) time.textContent = said;
  }
}

let heard = Date.now();

function stale(reason) {
  const line = document.getElementById("stale");
  line.hidden = reason === "";
  if (reason) line.textContent = reason;
}

function listen() {
  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.elt.id !== "live") return;
    const status = event.detail.xhr.status;
    if (event.detail.successful) {
      heard = Date.now();
      stale("");
    } else if (status === 401 || status === 403) {
      stale("You are signed out. Reload the page to sign in again. The data below is old.");
    }
  });
  // Only a form shows an error in its own place; errors of the poll have their own line.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const failed = event.detail.xhr.status >= 400;
    if (failed && event.detail.elt.closest("dialog")) event.detail.shouldSwap = true;
    if (failed && event.detail.elt.matches("[hx-target='#dialog-slot']")) stale(event.detail.xhr.responseText.replace(/<[^>]*>/g, ""));
  });
}

function poll() {
  const live = document.getElementById("live");
  if (!live || document.hidden) return;
  window.htmx?.trigger(live, "poll");
  const silent = Math.round((Date.now() - heard) / 1000);
  if (silent > 8) stale(`No answer for ${silent} s: Airflow or its database is down. The data below is old. Run \`make status\` on the control plane.`);
}

function dialogs() {
  let opener = null;
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "dialog-slot") return;
    opener = event.detail.requestConfig.elt.id;
    const dialog = document.querySelector("#dialog-slot dialog");
    dialog?.showModal();
    dialog?.addEventListener("close", () => {
      document.getElementById("dialog-slot").replaceChildren();
      document.getElementById(opener)?.focus();
    });
  });
  document.addEventListener("click", (event) => {
    const close = event.target.closest("dialog .close");
    if (close && close.closest("#dialog-slot")) {
      event.preventDefault();
      close.closest("dialog").close();
    }
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const dialog = event.detail.elt.closest("dialog");
    if (!dialog || !event.detail.successful) return;
    dialog.querySelector(".confirm")?.remove();
    const close = dialog.querySelector(".close");
    if (close) { close.textContent = "Close"; close.focus(); }
  });
}

// Airflow's frame is sandboxed and can't navigate its parent by a link; Airflow's own document can.
function leave() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[target='_top']");
    if (!framed || !link) return;
    event.preventDefault();
    const outside = window.parent.document.createElement("a");
    outside.href = link.href;
    outside.click();
  });
}

addEventListener("DOMContentLoaded", () => {
  age();
  listen();
  dialogs();
  leave();
  setInterval(() => { age(); poll(); }, 1000);
  document.addEventListener("htmx:afterSettle", age);
  if (framed) new MutationObserver(theme).observe(window.parent.document.documentElement, { attributes: true, attributeFilter: ["class", "data-theme"] });
});

"use strict";
// The page is whole without this: it only switches, sorts and filters what is there.
const root = document.documentElement;
const byId = (id) => document.getElementById(id);
const counted = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
root.classList.add("script");

// A page that is opened from disk may be allowed no storage.
const kept = {
  get() { try { return localStorage.getItem("effd0-theme"); } catch { return null; } },
  set(value) { try { localStorage.setItem("effd0-theme", value); } catch { /* then not */ } },
};
function theme(name) {
  if (name) root.dataset.theme = name;
  const dark = (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  byId("theme").setAttribute("aria-pressed", String(dark));
  return dark;
}
theme(kept.get());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme());
byId("theme").addEventListener("click", () => {
  const next = theme() ? "light" : "dark";
  theme(next);
  kept.set(next);
});

function sort(parent, children, before) {
  parent.append(...[...children].sort(before));
}
const number = (key, sign) => (a, b) => sign * (Number(a.dataset[key]) - Number(b.dataset[key]));
const word = (a, b) => a.dataset.name.localeCompare(b.dataset.name);

const classSort = byId("class-sort");
if (classSort) {
  const body = byId("classes").tBodies[0];
  const orders = { change: number("change", 1), ap: number("ap", -1), name: word };
  classSort.addEventListener("change", () => sort(body, body.rows, orders[classSort.value]));
}

const galleries = document.querySelectorAll(".gallery");
if (galleries.length) {
  for (const box of document.querySelectorAll("input[data-side]")) {
    const show = () => root.classList.toggle(`hide-${box.dataset.side}`, !box.checked);
    box.addEventListener("change", show);
    show(); // a reload may have kept what was switched
  }
  const order = byId("image-sort");
  const orders = { difference: number("difference", -1), name: word };
  const arrange = () => {
    for (const list of galleries) sort(list, list.children, orders[order.value]);
  };
  order.addEventListener("change", arrange);
  arrange();

  const [show, of, wanted] = ["image-show", "image-class", "image-filter"].map(byId);
  const filter = () => {
    const text = wanted.value.trim().toLowerCase();
    const shown = [...galleries].map((list) => {
      for (const item of list.children) {
        const classes = JSON.parse(item.dataset[show.value]);
        const found = of.value ? classes.includes(of.value) : show.value === "all" || classes.length;
        item.hidden = !found || !item.dataset.name.toLowerCase().includes(text);
      }
      return list.querySelectorAll(":scope > :not([hidden])").length;
    });
    const all = shown.reduce((sum, count) => sum + count);
    byId("image-count").value = counted(all, "image");
    byId("no-image").hidden = all > 0;
    if (byId("same")) byId("same-count").value = counted(shown.at(-1), "image");
  };
  for (const control of [show, of, wanted]) control.addEventListener("input", filter);
  filter();

  const dialog = byId("enlarged");
  let current;
  const open = (item, by) => {
    const seen = [...document.querySelectorAll(".gallery > li")].filter((one) => one.checkVisibility());
    const place = (seen.indexOf(item) + by + seen.length) % seen.length;
    current = seen[place].querySelector(".enlarge");
    byId("enlarged-place").value = `${place + 1} of ${seen.length}`;
    enlarge(dialog, current);
  };
  const step = (by) => open(current.closest("li"), by);
  for (const button of document.querySelectorAll(".enlarge")) {
    button.addEventListener("click", () => open(button.closest("li"), 0));
  }
  for (const button of dialog.querySelectorAll("[data-by]")) {
    button.addEventListener("click", () => step(Number(button.dataset.by)));
  }
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) step(by);
  });
  dialog.addEventListener("close", () => current.focus());
}

function enlarge(dialog, button) {
  const picture = button.querySelector("svg").cloneNode(true);
  dialog.querySelector(".picture").replaceChildren(picture);
  byId("enlarged-name").textContent = button.closest("li").dataset.name;
  if (!dialog.open) dialog.showModal();
  const size = 13 / picture.getScreenCTM().a; // pixels of the screen
  for (const box of picture.querySelectorAll("rect[data-tag]")) {
    const tag = document.createElementNS(picture.namespaceURI, "text");
    tag.textContent = box.dataset.tag;
    tag.classList.add(box.classList[0]);
    // Each side has a corner of its own, so that tags of one object do not hide each other.
    const below = box.classList.contains("reference");
    const inside = box.classList.contains("truth");
    const x = Number(box.getAttribute("x"));
    const y = Number(box.getAttribute("y"));
    const bottom = y + Number(box.getAttribute("height"));
    tag.setAttribute("y", below ? bottom - size / 3 : inside ? y + size * 1.1 : Math.max(y - size / 3, size));
    tag.setAttribute("font-size", size);
    tag.setAttribute("stroke-width", size / 5);
    box.after(tag);
    const end = picture.viewBox.baseVal.width - tag.getComputedTextLength();
    tag.setAttribute("x", Math.max(0, Math.min(x + size / 4, end)));
  }
}

const table = byId("check-table");
if (table) {
  const order = byId("check-sort");
  const body = table.tBodies[0];
  const orders = { place: number("place", 1), seconds: number("seconds", -1), name: word };
  const arrange = () => sort(body, body.rows, orders[order.value]);
  order.addEventListener("change", arrange);
  arrange();

  const [stage, status, wanted] = ["check-stage", "check-status", "check-filter"].map(byId);
  const filter = () => {
    const text = wanted.value.trim().toLowerCase();
    let shown = 0;
    for (const row of body.rows) {
      row.hidden = Boolean(
        (stage.value && row.dataset.stage !== stage.value)
        || (status.value && row.dataset.status !== status.value)
        || !row.textContent.toLowerCase().includes(text),
      );
      shown += !row.hidden;
    }
    byId("check-count").value = counted(shown, "check");
  };
  for (const control of [stage, status, wanted]) control.addEventListener("input", filter);
  filter();
  for (const link of document.querySelectorAll("[data-show-stage]")) {
    link.addEventListener("click", () => {
      stage.value = link.dataset.showStage;
      status.value = "";
      wanted.value = "";
      filter();
    });
  }
}

const copy = byId("copy");
copy.addEventListener("click", async () => {
  const lines = [...byId("commands").querySelectorAll("code")].map((line) => line.textContent);
  try {
    await navigator.clipboard.writeText(lines.join("\n"));
    copy.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(byId("commands"));
    copy.textContent = "Selected";
  }
});

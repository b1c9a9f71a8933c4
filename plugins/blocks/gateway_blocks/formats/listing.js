"use strict";
document.documentElement.classList.add("scripted");

const rows = document.getElementById("entries");
const names = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
const keys = {
  name: { of: (row) => row.cells[0].textContent, compare: names.compare },
  size: { of: (row) => Number(row.cells[1].dataset.bytes ?? 0), compare: (a, b) => a - b },
  time: { of: (row) => row.querySelector("time").dateTime, compare: (a, b) => (a < b ? -1 : a > b ? 1 : 0) },
};

function sort(button) {
  const head = button.closest("th");
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const { of, compare } = keys[button.dataset.sort];
  const found = Array.from(rows.rows, (row) => ({ row, folder: row.className === "folder", key: of(row) }));
  found.sort((a, b) => b.folder - a.folder || (down ? compare(b.key, a.key) : compare(a.key, b.key)));
  rows.append(...found.map((each) => each.row));
}

async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // there is no clipboard for pages that came without TLS
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  document.getElementById("said").textContent = `Copied: ${text}`;
  button.classList.add("copied");
  setTimeout(() => button.classList.remove("copied"), 1200);
}

document.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  if (button.dataset.sort) return sort(button);
  if (!button.dataset.run) return copy(button, button.previousElementSibling.textContent);
  const url = document.body.dataset.url + button.closest("tr").querySelector("a").getAttribute("href");
  copy(button, `${button.dataset.run} '${url.replaceAll("'", "%27")}'`);
});

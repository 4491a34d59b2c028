/* Tables that sort, and the log matcher. Nothing here asks any host for anything. */
"use strict";

(() => {
  /* ---- tables: a heading is a button that sorts by `data-sort`, else by words ---- */

  const key = cell => cell.dataset.sort === undefined ? cell.textContent.trim() : Number(cell.dataset.sort);
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));

  function sortable(table) {
    const headings = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Sort by this column";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        headings.forEach(other => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows];
        rows.sort((a, b) => compare(key(a.cells[column]), key(b.cells[column])) * (down ? -1 : 1));
        body.append(...rows);
      });
    });
  }

  /* ---- the matcher: the same as `runbook match`, over bytes, a byte a character ---- */

  const BLOCK = 1 << 20;
  const bytewise = new TextDecoder("windows-1252");
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

  class LogMatcher {
    constructor(table) {
      this.table = table;
      this.number = 0;
      this.searches = table.entries.flatMap(entry => entry.signatures.map((signature, order) => ({
        entry, signature, order, found: [], pattern: new RegExp(signature.portable, "s"),
      })));
    }

    /* A piece of the log that ends with a whole line (or with the log). */
    take(bytes) {
      const open = this.searches.filter(search => search.found.length < this.table.kept_lines);
      for (let start = 0; start < bytes.length;) {
        let end = bytes.indexOf(10, start);
        end = end < 0 ? bytes.length : end;
        this.number += 1;
        let stop = Math.min(end, start + this.table.longest_line);
        while (stop > start && bytes[stop - 1] === 13) stop -= 1;
        const line = bytes.subarray(start, stop);
        const text = bytewise.decode(line);
        for (const search of open) {
          if (search.found.length < this.table.kept_lines && search.pattern.test(text)) {
            search.found.push({ number: this.number, text: utf8.decode(line), pattern: search.signature.pattern });
          }
        }
        start = end + 1;
      }
    }

    /* Entries, best first: [{entry, runbook_id, score, hits, means}]. */
    ranked() {
      const matches = new Map();
      for (const search of this.searches) {
        if (!search.found.length) continue;
        const id = search.entry.id;
        const match = matches.get(id) ?? { entry: search.entry, runbook_id: id, score: 0, all: [], means: [] };
        matches.set(id, match);
        match.score += search.signature.weight * Math.min(search.found.length, this.table.counted_matches);
        match.all.push(...search.found.map(hit => ({ hit, order: search.order })));
        if (search.signature.means) match.means.push(search.signature.means);
      }
      const ranked = [...matches.values()];
      for (const match of ranked) {
        match.all.sort((a, b) => a.hit.number - b.hit.number || a.order - b.order);
        match.hits = match.all.slice(0, this.table.kept_lines).map(one => one.hit);
        delete match.all;
      }
      return ranked.sort((a, b) => b.score - a.score || (a.runbook_id < b.runbook_id ? -1 : 1));
    }
  }

  /* Reads a log piece by piece, so that a large one neither fills the memory nor stops the page. */
  async function matchBlob(blob, table, progress = () => {}) {
    const matcher = new LogMatcher(table);
    let rest = new Uint8Array(0);
    for (let place = 0; place < blob.size; place += BLOCK) {
      const block = new Uint8Array(await blob.slice(place, place + BLOCK).arrayBuffer());
      const end = block.lastIndexOf(10) + 1;
      if (end) {
        matcher.take(joined(rest, block.subarray(0, end)));
        rest = block.slice(end);
      } else if (rest.length <= table.longest_line) {
        rest = joined(rest, block);
      }
      progress(Math.min(1, (place + BLOCK) / blob.size));
    }
    if (rest.length) matcher.take(rest);
    return matcher.ranked();
  }

  function joined(one, other) {
    const all = new Uint8Array(one.length + other.length);
    all.set(one);
    all.set(other, one.length);
    return all;
  }

  window.runbookMatch = text => matchBlob(new Blob([text]), window.runbookSignatures);

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  function show(ranked, status, list) {
    status.textContent = ranked.length
      ? `${ranked.length} ${ranked.length === 1 ? "entry" : "entries"}, the likeliest first`
      : "No entry's signature is in this log.";
    list.replaceChildren(...ranked.map(match => element("li", {},
      element("a", { href: `entries/${match.entry.id}.html` }, `${match.entry.number}. ${match.entry.title}`),
      element("small", {}, ` score ${match.score}`),
      element("p", {}, match.means.join("; ")),
      element("pre", { tabIndex: 0, className: "rb-output" }, match.hits.map(hit => `${hit.number}: ${hit.text}`).join("\n")),
    )));
  }

  function matcherPage(form) {
    const [paste, file] = [form.querySelector("textarea"), form.querySelector("input[type=file]")];
    const [status, list] = [document.getElementById("match-status"), document.getElementById("match-found")];
    const run = async blob => {
      list.replaceChildren();
      status.textContent = "Reading…";
      try {
        show(await matchBlob(blob, window.runbookSignatures, part => {
          status.textContent = `Reading… ${Math.round(part * 100)} %`;
        }), status, list);
      } catch (error) {
        status.textContent = `This log could not be read: ${error.message}`;
      }
    };
    form.addEventListener("submit", event => { event.preventDefault(); run(new Blob([paste.value])); });
    file.addEventListener("change", () => { if (file.files.length) run(file.files[0]); });
    paste.addEventListener("paste", () => setTimeout(() => form.requestSubmit()));
    form.addEventListener("dragover", event => { event.preventDefault(); form.classList.add("rb-over"); });
    form.addEventListener("dragleave", () => form.classList.remove("rb-over"));
    form.addEventListener("drop", event => {
      event.preventDefault();
      form.classList.remove("rb-over");
      if (event.dataTransfer.files.length) run(event.dataTransfer.files[0]);
      else { paste.value = event.dataTransfer.getData("text"); form.requestSubmit(); }
    });
  }

  document.querySelectorAll("table.rb-sort").forEach(sortable);
  const form = document.getElementById("match-log");
  if (form) matcherPage(form);
})();

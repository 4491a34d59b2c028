/* Tables that sort or filter, and the log matcher. Nothing here makes a request to any host. */
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

  const bytewise = new TextDecoder("windows-1252");
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

  class LogMatcher {
    constructor(table) {
      this.table = table;
      this.number = 1;
      this.inside = false;
      this.searches = table.entries.flatMap(entry => entry.signatures.map((signature, order) => ({
        entry, signature, order, found: [], pattern: new RegExp(signature.portable, "gs"),
      })));
    }

    /* Consecutive bytes of the log: whole pieces, or a part of one that is cut between windows (runner/entry/log_lines.py). */
    take(bytes) {
      const open = this.searches.filter(search => search.found.length < this.table.kept_lines);
      for (let start = 0; start < bytes.length;) {
        let end = start;
        while (end < bytes.length && bytes[end] !== 10 && bytes[end] !== 13) end += 1;
        if (end > start) this.piece(bytes, start, end, open);
        this.inside = false;
        if (bytes[end] === 10) this.number += 1;
        start = end + 1;
      }
    }

    piece(bytes, start, end, open) {
      const { window, overlap, kept_lines: kept } = this.table;
      let context = Number(this.inside && start === 0);
      for (let place = start + context; ; place += window - overlap, context = 1) {
        const line = bytes.subarray(place - context, Math.min(end, place + window));
        const text = bytewise.decode(line);
        for (const search of open) {
          if (search.found.length >= kept || search.found.at(-1)?.number === this.number) continue;
          search.pattern.lastIndex = context;
          if (search.pattern.test(text)) {
            search.found.push({ number: this.number, text: utf8.decode(line.subarray(context)), pattern: search.signature.pattern });
          }
        }
        if (place + window >= end) return;
      }
    }

    /* Entries, best first: [{entry, runbook_id, score, hits, means}]. */
    ranked() {
      const matches = new Map();
      for (const search of this.searches) {
        if (!search.found.length) continue;
        const id = search.entry.id;
        const match = matches.get(id) ?? { entry: search.entry, runbook_id: id, score: 0, cause: false, consequence: true, all: [], means: [] };
        matches.set(id, match);
        match.score += search.signature.weight * Math.min(search.found.length, this.table.counted_matches);
        match.cause ||= search.signature.weight >= this.table.cause_weight && !search.signature.consequence;
        match.consequence &&= search.signature.consequence;
        match.all.push(...search.found.map(hit => ({ hit, order: search.order })));
        if (search.signature.means) match.means.push(search.signature.means);
      }
      const ranked = [...matches.values()];
      const limit = Math.min(...ranked.filter(one => one.cause).map(one => one.score));
      for (const match of ranked) {
        match.all.sort((a, b) => a.hit.number - b.hit.number || a.order - b.order);
        match.hits = match.all.slice(0, this.table.kept_lines).map(one => one.hit);
        delete match.all;
        if (match.consequence) match.score = Math.min(match.score, limit);
      }
      return ranked.sort((a, b) => b.score - a.score || a.consequence - b.consequence || (a.runbook_id < b.runbook_id ? -1 : 1));
    }
  }

  /* Reads a log piece by piece, so that a large one neither fills the memory nor stops the page. */
  async function matchBlob(blob, table, progress = () => {}) {
    const matcher = new LogMatcher(table);
    const [step, long] = [table.window - table.overlap, 1 << 16];
    let rest = new Uint8Array(0);
    let beginning = null;
    let broken = null;
    try {
      for await (const block of texts(blob, table, progress)) {
        beginning ??= block.slice(0, SAMPLE);
        const data = joined(rest, block);
        const end = Math.max(data.lastIndexOf(10), data.lastIndexOf(13)) + 1;
        if (end) {
          matcher.take(data.subarray(0, end));
          matcher.inside = false;
        }
        rest = data.slice(end);
        if (rest.length >= long) {
          const begin = Number(matcher.inside);
          const whole = Math.floor((rest.length - begin - table.window) / step) + 1;
          matcher.take(rest.subarray(0, begin + (whole - 1) * step + table.window));
          matcher.inside = true;
          rest = rest.slice(begin + whole * step - 1);
        }
      }
    } catch (error) {
      broken = error;
    }
    if (rest.length) matcher.take(rest);
    const ranked = matcher.ranked();
    // What came before the damage is matched; without a match nothing is known.
    if (broken && !ranked.length) throw broken;
    ranked.partial = Boolean(broken);
    if (!ranked.length && !beginning) throw new Error("it is empty");
    if (!ranked.length && controls(beginning) > 0.1 * beginning.length) throw new Error("it is not a text log");
    return ranked;
  }

  const SAMPLE = 4096;
  const controls = bytes => bytes.filter(one => one < 9 || one === 127 || (one > 13 && one < 32 && one !== 27)).length;

  /* The log's bytes as text: unpacked if it is gzip, in UTF-8 if it is UTF-16, as `runner/entry/log_forms.py` has it. */
  async function* texts(blob, table, progress) {
    let sample = await head(blob);
    refuse(sample, table);
    let stream = blob.stream();
    if (sample[0] === 0x1f && sample[1] === 0x8b) {
      const unpack = () => blob.stream().pipeThrough(new DecompressionStream("gzip"));
      sample = await first(unpack());
      refuse(sample, table);
      stream = unpack();
    } else if (hex(sample, 0, 6) === "fd377a585a00" || hex(sample, 0, 3) === "425a68") {
      throw new Error("it is compressed with xz or bzip2; on a command line `runbook match FILE` reads it");
    }
    const encoding = encodingOf(sample);
    const decoder = encoding === "utf-8" ? null : new TextDecoder(encoding);
    const encoder = new TextEncoder();
    let marked = !decoder && hex(sample, 0, 3) === "efbbbf";
    let done = 0;
    for await (let block of chunks(stream)) {
      done += block.length;
      if (decoder) block = encoder.encode(decoder.decode(block, { stream: true }));
      if (marked) block = block.subarray(3);
      marked = false;
      if (block.length) yield block;
      progress(Math.min(1, done / blob.size));
    }
    const last = decoder ? encoder.encode(decoder.decode()) : [];
    if (last.length) yield last;
  }

  /* Not every browser can walk through a stream with `for await`. Small parts are joined, so that each has a sample. */
  async function* chunks(stream) {
    const reader = stream.getReader();
    let held = new Uint8Array(0);
    for (;;) {
      const { done, value } = await reader.read();
      held = done ? held : joined(held, value);
      if ((done || held.length >= SAMPLE) && held.length) {
        yield held;
        held = new Uint8Array(0);
      }
      if (done) return;
    }
  }

  const head = async blob => new Uint8Array(await blob.slice(0, SAMPLE).arrayBuffer());

  async function first(stream) {
    for await (const block of chunks(stream)) return block.subarray(0, SAMPLE);
    return new Uint8Array(0);
  }

  const hex = (bytes, start, length) =>
    [...bytes.subarray(start, start + length)].map(one => one.toString(16).padStart(2, "0")).join("");

  function refuse(sample, table) {
    for (const { magic, offset, what, instead } of table.unreadable) {
      if (hex(sample, offset, magic.length / 2) === magic) throw new Error(`it is ${what}, not a text log; ${instead}`);
    }
  }

  function encodingOf(sample) {
    const mark = hex(sample, 0, 2);
    if (mark === "fffe" || mark === "feff") return mark === "fffe" ? "utf-16le" : "utf-16be";
    const pairs = sample.length >> 1;
    const zeros = [0, 0];
    for (let place = 0; place < 2 * pairs; place += 1) zeros[place & 1] += sample[place] === 0;
    const wide = pairs >= 4 && Math.max(...zeros) > pairs / 2 && Math.min(...zeros) < pairs / 10;
    return wide ? (zeros[1] > zeros[0] ? "utf-16le" : "utf-16be") : "utf-8";
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
      ? `${ranked.length} ${ranked.length === 1 ? "entry" : "entries"}, most likely first${ranked.partial ? "; the log was read only in part" : ""}`
      : "No signature of any entry matches this log.";
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

  /* ---- a table with a field above it that keeps the rows with every word of it ---- */

  function filterable(place) {
    const table = document.querySelector(".rb-filter ~ table, .rb-filter ~ * table");
    if (!table) return;
    const input = element("input", { type: "search", autocomplete: "off" });
    const status = element("small", {});
    status.setAttribute("role", "status");
    place.append(element("label", {}, place.dataset.label, input), status);
    const rows = [...table.tBodies[0].rows];
    const apply = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const kept = rows.filter(row => {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every(word => text.includes(word));
        return !row.hidden;
      });
      status.textContent = words.length ? `${kept.length} of ${rows.length}` : "";
    };
    input.addEventListener("input", apply);
  }

  document.querySelectorAll(".rb-filter").forEach(filterable);
  document.querySelectorAll("table.rb-sort").forEach(sortable);
  const form = document.getElementById("match-log");
  if (form) matcherPage(form);
})();

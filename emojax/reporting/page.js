// The script of the report's page. It reads the JSON of #report-data, draws learning curves as
// SVG and timelines on a canvas, and loads nothing. Names reach the page as text, never as HTML.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const several = data.runs.length > 1;
  const COLORS = 8;
  const find = (id) => document.getElementById(id);

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function svg(tag, attributes = {}, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text) made.textContent = text;
    return made;
  }

  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

  function short(value, decimals = 3) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(1);
    return Math.abs(value) >= 1000 ? String(Math.round(value)) : value.toFixed(decimals);
  }

  // A number that a tick stands on: as few digits as tell neighbours apart.
  const tickText = (value) => String(Number(value.toPrecision(6)));

  function ticks(low, high, wanted) {
    const raw = (high - low) / Math.max(1, wanted);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= raw * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
      found.push(i * step);
    }
    return found;
  }

  function logTicks(low, high) {
    const found = [];
    for (let power = Math.floor(low); power <= high; power++) {
      for (const digit of [1, 2, 5]) {
        const at = power + Math.log10(digit);
        if (at >= low - 1e-9 && at <= high + 1e-9) found.push(at);
      }
    }
    return found.length > 6 ? found.filter((x) => Math.abs(x - Math.round(x)) < 1e-9) : found;
  }

  // Index of the first entry that is not below x, in a sorted list.
  function firstFrom(sorted, x) {
    let low = 0;
    let high = sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle] < x) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  function nearest(sorted, x) {
    const i = clamp(firstFrom(sorted, x), 0, sorted.length - 1);
    return i > 0 && x - sorted[i - 1] < sorted[i] - x ? i - 1 : i;
  }

  // -- learning curves -----------------------------------------------------------------------

  const lineTitle = (line) => (several ? `${data.runs[line.run]}: ${line.name}` : line.name);

  // Scores to measure the curves by: level lines in the colour of the first curve of that score,
  // or of their run, dashed by system.
  function levelLines(panel, lines, steps) {
    const systems = [...new Set(panel.levels.map((level) => level.system))];
    const known = panel.levels.map((level) => [
      level,
      lines.find((line) => line.score === level.score && line.run === level.run),
    ]);
    return known
      .filter(([, like]) => like)
      .map(([level, like]) => ({
        ...level,
        name: `${level.system} ${level.score}`,
        level: true,
        look: `${like.look.split(" ")[0]} thin d${1 + (systems.indexOf(level.system) % 3)}`,
        shown: like.shown,
        x: steps,
        y: steps.map(() => level.value),
      }));
  }

  function curvePanel(panel) {
    const names = [...new Set(panel.series.map((line) => line.name))];
    const steps = [...new Set(panel.series.flatMap((line) => line.x))].sort((a, b) => a - b);
    const lines = panel.series.map((line, i) => ({
      ...line,
      y: line.y.map((y) => (panel.log && y !== null ? (y > 0 ? Math.log10(y) : null) : y)),
      // Several runs: a colour for each run, a dash for each metric.
      look: several
        ? `c${line.run % COLORS} d${names.indexOf(line.name) % 4}`
        : `c${i % COLORS} d${Math.floor(i / COLORS) % 4}`,
    }));
    lines.push(...levelLines(panel, lines, steps));
    const picture = svg("svg", { class: "curves", tabindex: "0", role: "img" });
    picture.setAttribute("aria-label", `${panel.title} over steps; arrow keys read values`);
    const readout = element("p", { class: "readout", "aria-live": "polite" }, "\u00a0");
    const legend = element("div", { class: "legend", role: "group", "aria-label": "series" });
    let at = null;

    for (const line of lines) {
      const swatch = svg("svg", { class: "swatch", viewBox: "0 0 24 8", "aria-hidden": "true" });
      swatch.append(svg("line", { class: line.look, x1: 0, x2: 24, y1: 4, y2: 4 }));
      const button = element("button", { type: "button", "aria-pressed": String(line.shown) });
      button.append(swatch, lineTitle(line));
      button.addEventListener("click", () => {
        line.shown = !line.shown;
        button.setAttribute("aria-pressed", String(line.shown));
        draw();
      });
      legend.append(button);
    }

    function scales() {
      const width = Math.max(260, picture.clientWidth || 700);
      const height = 200;
      const box = { left: 56, right: width - 12, top: 10, bottom: height - 36 };
      const values = lines.filter((l) => l.shown).flatMap((l) => l.y.filter((y) => y !== null));
      let low = values.length ? Math.min(...values) : 0;
      let high = values.length ? Math.max(...values) : 1;
      const margin = (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.1;
      low -= margin;
      high += margin;
      const first = steps.length ? steps[0] : 0;
      const last = steps.length > 1 ? steps[steps.length - 1] : first + 1;
      const x = (step) => box.left + ((step - first) / (last - first)) * (box.right - box.left);
      const y = (value) => box.bottom - ((value - low) / (high - low)) * (box.bottom - box.top);
      return { width, height, box, low, high, first, last, x, y };
    }

    function draw() {
      const s = scales();
      picture.setAttribute("viewBox", `0 0 ${s.width} ${s.height}`);
      picture.replaceChildren();
      for (const value of panel.log ? logTicks(s.low, s.high) : ticks(s.low, s.high, 6)) {
        const where = { x1: s.box.left, x2: s.box.right, y1: s.y(value), y2: s.y(value) };
        picture.append(svg("line", { class: "grid", ...where }));
        const shown = tickText(panel.log ? 10 ** value : value);
        picture.append(
          svg("text", { class: "tick end", x: s.box.left - 6, y: s.y(value) + 4 }, shown),
        );
      }
      for (const step of ticks(s.first, s.last, s.width / 110)) {
        if (step !== Math.round(step)) continue;
        const where = { class: "tick middle", x: s.x(step), y: s.box.bottom + 16 };
        picture.append(svg("text", where, tickText(step)));
      }
      const middle = (s.box.left + s.box.right) / 2;
      picture.append(svg("text", { class: "tick middle", x: middle, y: s.height - 4 }, "step"));
      for (const line of lines.filter((l) => l.shown)) {
        let path = "";
        let pen = "M";
        line.x.forEach((step, i) => {
          if (line.y[i] === null) {
            pen = "M";
            return;
          }
          path += `${pen}${s.x(step).toFixed(1)} ${s.y(line.y[i]).toFixed(1)}`;
          pen = "L";
          if (line.x.length <= 60 && !line.level) {
            const dot = { class: `dot ${line.look}`, cx: s.x(step), cy: s.y(line.y[i]), r: 2.2 };
            picture.append(svg("circle", dot));
          }
        });
        picture.append(svg("path", { class: `line ${line.look}`, d: path }));
      }
      if (at !== null) {
        const x = s.x(steps[at]);
        const where = { x1: x, x2: x, y1: s.box.top, y2: s.box.bottom };
        picture.append(svg("line", { class: "cursor", ...where }));
      }
    }

    function read(index) {
      at = clamp(index, 0, steps.length - 1);
      const parts = lines
        .filter((line) => line.shown && line.x.includes(steps[at]))
        .map((line) => {
          const value = line.y[line.x.indexOf(steps[at])];
          return `${lineTitle(line)} ${short(panel.log && value !== null ? 10 ** value : value)}`;
        });
      readout.textContent = `step ${steps[at]}: ${parts.join(" · ")}`;
      draw();
    }

    picture.addEventListener("pointermove", (event) => {
      const s = scales();
      const within = picture.getBoundingClientRect();
      const x = ((event.clientX - within.left) / within.width) * s.width;
      const share = (x - s.box.left) / (s.box.right - s.box.left);
      if (steps.length) read(nearest(steps, s.first + share * (s.last - s.first)));
    });
    picture.addEventListener("pointerleave", () => {
      at = null;
      readout.textContent = "\u00a0";
      draw();
    });
    picture.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move || !steps.length) return;
      event.preventDefault();
      read(at === null ? (move > 0 ? 0 : steps.length - 1) : at + move);
    });
    const holder = element("div", { class: "panel" });
    const heading = panel.axis === panel.title ? panel.title : `${panel.title}: ${panel.axis}`;
    holder.append(element("h3", {}, heading), legend, picture, readout);
    return { holder, draw };
  }

  const panels = data.panels.map(curvePanel);
  if (panels.length) find("curve-panels").append(...panels.map((panel) => panel.holder));

  // -- timelines -----------------------------------------------------------------------------

  const tasks = Object.keys(data.tasks);
  const canvas = find("timeline");
  const view = { task: tasks[0], video: null, from: 0, to: 1, at: null, row: 0, hidden: new Set() };

  function bytes(code) {
    const raw = atob(code);
    const found = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
    return found.buffer;
  }

  function values(code, bits, none, scale) {
    const whole = bits === 16 ? new Int16Array(bytes(code)) : new Uint8Array(bytes(code));
    return Float32Array.from(whole, (x) => (x === none ? NaN : x * scale));
  }

  // Numbers of one video and task; made when first looked at.
  function decoded(video, task) {
    const coded = video.tasks[task];
    if (!coded.ready) {
      const facts = data.tasks[task];
      const all = (codes) => codes.map((c) => values(c, facts.bits, facts.none, coded.scale));
      const curves = Object.entries(coded.curves).map(([key, codes]) => [key, all(codes)]);
      video.times ??= new Float32Array(bytes(video.t));
      coded.ready = { labels: all(coded.labels), curves: Object.fromEntries(curves) };
    }
    return coded.ready;
  }

  function systemOf(key) {
    const colon = key.indexOf(":");
    return { run: Number(key.slice(0, colon)), name: key.slice(colon + 1) };
  }

  function systemTitle(key) {
    const { run, name } = systemOf(key);
    return several ? `${data.runs[run]}: ${name}` : name;
  }

  // Models are drawn bold, each in a colour; what they are compared with is thin and dashed.
  function look(key, keys) {
    const isModel = (k) => systemOf(k).name === "model";
    const others = keys.filter((k) => !isModel(k));
    if (isModel(key)) return { color: systemOf(key).run % COLORS, width: 1.8, dash: [] };
    const i = others.indexOf(key);
    const color = (data.runs.length + i) % COLORS;
    return { color, width: 1.2, dash: i % 2 ? [2, 3] : [6, 3] };
  }

  function score(video, task) {
    const scores = Object.values(video.tasks[task]?.scores ?? {})[0];
    if (!scores) return null;
    return scores[data.tasks[task].primary] ?? Object.values(scores)[0] ?? null;
  }

  const videoTitle = (video) => {
    const twice = data.videos.filter((other) => other.name === video.name).length > 1;
    return twice ? `${video.name} (fold ${video.fold})` : video.name;
  };

  function listVideos() {
    const order = find("order-choice").value;
    const rows = data.videos.filter((video) => video.tasks[view.task]);
    const compare = {
      name: (a, b) => a.name.localeCompare(b.name, "en", { numeric: true }),
      worst: (a, b) => (score(a, view.task) ?? Infinity) - (score(b, view.task) ?? Infinity),
      best: (a, b) => (score(b, view.task) ?? -Infinity) - (score(a, view.task) ?? -Infinity),
    }[order];
    // Infinity minus Infinity is NaN: neither comes first.
    rows.sort((a, b) => compare(a, b) || 0);
    const choice = find("video-choice");
    choice.replaceChildren(
      ...rows.map((video) => {
        const value = String(data.videos.indexOf(video));
        return element("option", { value }, `${short(score(video, view.task))}  ${videoTitle(video)}`);
      }),
    );
    find("video-count").textContent = String(rows.length);
    const chosen = rows.includes(view.video) ? view.video : rows[0];
    choice.value = String(data.videos.indexOf(chosen));
    show(chosen);
  }

  function show(video) {
    const other = video !== view.video;
    view.video = video;
    const { curves } = decoded(video, view.task);
    if (other) whole();
    const coded = video.tasks[view.task];
    const drawn = video.points < video.frames
      ? `; drawn as least and greatest values, ${video.points} points`
      : "";
    find("video-facts").textContent =
      `${videoTitle(video)}: ${video.frames} frames, ${coded.annotated} annotated${drawn}`;
    const keys = Object.keys(curves);
    const boxes = keys.map((key) => {
      const id = `show-${keys.indexOf(key)}`;
      const box = element("input", { type: "checkbox", id });
      box.checked = !view.hidden.has(key);
      box.addEventListener("change", () => {
        if (box.checked) view.hidden.delete(key);
        else view.hidden.add(key);
        draw();
      });
      const style = look(key, keys);
      const swatch = svg("svg", { class: "swatch", viewBox: "0 0 24 8", "aria-hidden": "true" });
      const drawnAs = { x1: 0, x2: 24, y1: 4, y2: 4, "stroke-dasharray": style.dash.join(" ") };
      swatch.append(svg("line", { class: `c${style.color}`, ...drawnAs }));
      const primary = data.tasks[view.task].primary;
      const reached = coded.scores[key]?.[primary];
      const told = reached === undefined ? "" : ` (${primary} ${short(reached)})`;
      return element("label", { for: id }, box, swatch, systemTitle(key) + told);
    });
    const legend = element("legend", {}, "Shown");
    find("curve-choice").replaceChildren(legend, annotationSign(), ...boxes);
    draw();
  }

  // How the annotation is drawn; it cannot be hidden.
  function annotationSign() {
    const { continuous } = data.tasks[view.task];
    const swatch = svg("svg", { class: "swatch", viewBox: "0 0 24 8", "aria-hidden": "true" });
    swatch.append(
      continuous
        ? svg("line", { class: "annotated", x1: 0, x2: 24, y1: 4, y2: 4 })
        : svg("rect", { class: "present", width: 24, height: 8 }),
    );
    return element("span", {}, swatch, continuous ? "annotated" : "annotated as present");
  }

  function whole() {
    const times = view.video.times;
    view.from = times[0] ?? 0;
    view.to = Math.max(times[times.length - 1] ?? 1, view.from + 0.1);
    view.at = null;
  }

  // Zooms by a factor around a time, or moves by a share of what is seen; stays in the video.
  function zoom(factor, around = (view.from + view.to) / 2) {
    place(around - (around - view.from) * factor, around + (view.to - around) * factor);
  }

  function place(from, to) {
    const times = view.video.times;
    const [first, last] = [times[0], Math.max(times[times.length - 1], times[0] + 0.1)];
    const span = clamp(to - from, Math.min(0.2, last - first), last - first);
    const middle = clamp((from + to) / 2, first + span / 2, last - span / 2);
    view.from = middle - span / 2;
    view.to = middle + span / 2;
    draw();
  }

  const move = (share) => {
    const by = (view.to - view.from) * share;
    place(view.from + by, view.to + by);
  };

  function layout() {
    const { continuous, labels } = data.tasks[view.task];
    const width = Math.max(260, canvas.clientWidth || 700);
    const each = continuous ? 168 : 46;
    const gap = continuous ? 26 : 16;
    const top = 22;
    const rows = labels.map((label, i) => ({ label, top: top + i * (each + gap), height: each }));
    return { width, height: top + labels.length * (each + gap) - gap + 24, left: 46, right: width - 8, rows };
  }

  function limits(all) {
    if (!data.tasks[view.task].continuous) return [0, 1];
    let low = Infinity;
    let high = -Infinity;
    for (const line of all) {
      for (const x of line) {
        if (x < low) low = x;
        if (x > high) high = x;
      }
    }
    if (low > high || (low >= -1.001 && high <= 1.001)) return [-1.05, 1.05];
    const margin = (high - low) * 0.05 || 0.1;
    return [low - margin, high + margin];
  }

  // Runs of points that a test holds for, as [first, one past the last].
  function spans(points, from, to, test) {
    const found = [];
    for (let i = from; i < to; i++) {
      if (!test(points[i])) continue;
      const last = found[found.length - 1];
      if (last && last[1] === i) last[1] = i + 1;
      else found.push([i, i + 1]);
    }
    return found;
  }

  function draw() {
    if (!view.video) return;
    const { labels, curves } = decoded(view.video, view.task);
    const { continuous } = data.tasks[view.task];
    const times = view.video.times;
    const where = layout();
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(where.width * ratio);
    canvas.height = Math.round(where.height * ratio);
    canvas.style.height = `${where.height}px`;
    const pen = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    pen.scale(ratio, ratio);
    pen.fillStyle = color("ground");
    pen.fillRect(0, 0, where.width, where.height);
    pen.font = `12px ${style.fontFamily}`;
    const scale = (where.right - where.left) / (view.to - view.from);
    const x = (t) => where.left + (t - view.from) * scale;
    const start = Math.max(0, firstFrom(times, view.from) - 1);
    const stop = Math.min(times.length, firstFrom(times, view.to) + 2);
    const keys = Object.keys(curves);
    const shown = keys.filter((key) => !view.hidden.has(key));
    const edge = (i) => x(times[Math.min(i, times.length - 1)]);

    where.rows.forEach((row, c) => {
      const [low, high] = limits([labels[c], ...shown.map((key) => curves[key][c])]);
      const y = (v) => row.top + row.height - ((v - low) / (high - low)) * row.height;
      pen.save();
      pen.beginPath();
      pen.rect(where.left, row.top, where.right - where.left, row.height);
      pen.clip();
      pen.fillStyle = color("panel");
      pen.fillRect(where.left, row.top, where.right - where.left, row.height);
      const fill = (name, test, top, height) => {
        pen.fillStyle = color(name);
        for (const [a, b] of spans(labels[c], start, stop, test)) {
          pen.fillRect(edge(a), top, Math.max(0.5, edge(b) - edge(a)), height);
        }
      };
      fill("unannotated", Number.isNaN, row.top, row.height);
      if (!continuous) {
        fill("present", (v) => v >= 0.5, row.top, row.height);
        fill("active", (v) => v >= 0.5, row.top + row.height - 4, 4);
      }
      for (const value of continuous ? ticks(low, high, 4) : [0.5]) {
        pen.strokeStyle = color("line");
        pen.lineWidth = 1;
        pen.setLineDash([]);
        pen.beginPath();
        pen.moveTo(where.left, y(value));
        pen.lineTo(where.right, y(value));
        pen.stroke();
      }
      const trace = (line, name, width, dash) => {
        pen.strokeStyle = color(name);
        pen.lineWidth = width;
        pen.lineJoin = "round";
        pen.setLineDash(dash);
        pen.beginPath();
        let down = false;
        for (let i = start; i < stop; i++) {
          if (Number.isNaN(line[i])) down = false;
          else if (down) pen.lineTo(x(times[i]), y(line[i]));
          else {
            pen.moveTo(x(times[i]), y(line[i]));
            down = true;
          }
        }
        pen.stroke();
      };
      if (continuous) trace(labels[c], "ink", 2, []);
      // Models last, so that they lie on top.
      for (const key of [...shown].sort((a, b) => look(a, keys).width - look(b, keys).width)) {
        const as = look(key, keys);
        trace(curves[key][c], `c${as.color}`, as.width, as.dash);
      }
      pen.restore();
      pen.fillStyle = color("faint");
      pen.textAlign = "right";
      pen.textBaseline = "middle";
      for (const value of continuous ? ticks(low, high, 4) : [0, 1]) {
        pen.fillText(tickText(value), where.left - 5, y(value));
      }
      pen.textAlign = "left";
      pen.textBaseline = "alphabetic";
      pen.fillStyle = color("ink");
      pen.font = `600 12px ${style.fontFamily}`;
      pen.fillText(row.label, where.left, row.top - 4);
      const after = where.left + pen.measureText(row.label).width + 10;
      pen.font = `12px ${style.fontFamily}`;
      pen.fillStyle = color("faint");
      pen.fillText(told(row.label, shown), after, row.top - 4, where.right - after);
    });

    pen.fillStyle = color("faint");
    pen.textAlign = "center";
    pen.textBaseline = "top";
    const foot = where.rows[where.rows.length - 1];
    for (const t of ticks(view.from, view.to, where.width / 110)) {
      pen.fillText(`${tickText(t)} s`, clamp(x(t), where.left + 8, where.right - 16), foot.top + foot.height + 5);
    }
    if (view.at !== null) {
      pen.strokeStyle = color("ink");
      pen.lineWidth = 1;
      pen.setLineDash([3, 3]);
      pen.beginPath();
      pen.moveTo(x(view.at), where.rows[0].top);
      pen.lineTo(x(view.at), foot.top + foot.height);
      pen.stroke();
    }
    canvas.setAttribute(
      "aria-label",
      `${videoTitle(view.video)}, ${view.task}, from ${view.from.toFixed(1)} to ` +
        `${view.to.toFixed(1)} seconds, with ${shown.map(systemTitle).join(", ") || "no prediction"}`,
    );
    readOut(shown);
  }

  // What each shown system scores in this video for one label.
  function told(label, shown) {
    const { axis, decimals, each, labels } = data.tasks[view.task];
    const name = each[labels.indexOf(label)];
    const scores = view.video.tasks[view.task].scores;
    const parts = shown
      .filter((key) => scores[key]?.[name] !== undefined)
      .map((key) => `${systemTitle(key)} ${short(scores[key][name], decimals)}`);
    return parts.length ? `${axis}: ${parts.join(", ")}` : "";
  }

  function readOut(shown) {
    if (view.at === null) {
      find("readout").textContent = "\u00a0";
      return;
    }
    const { labels, curves } = decoded(view.video, view.task);
    const i = nearest(view.video.times, view.at);
    const c = clamp(view.row, 0, labels.length - 1);
    const annotated = Number.isNaN(labels[c][i]) ? "not annotated" : `annotated ${short(labels[c][i])}`;
    const parts = shown.map((key) => `${systemTitle(key)} ${short(curves[key][c][i])}`);
    const label = data.tasks[view.task].labels[c];
    find("readout").textContent =
      `${view.video.times[i].toFixed(2)} s, ${label}: ${[annotated, ...parts].join(" · ")}`;
  }

  // -- moving ----------------------------------------------------------------------------------

  const pointers = new Map();

  function timeAt(clientX) {
    const where = layout();
    const share = (clientX - canvas.getBoundingClientRect().left - where.left) / (where.right - where.left);
    return view.from + clamp(share, 0, 1) * (view.to - view.from);
  }

  function pointed(event) {
    const known = pointers.get(event.pointerId);
    const perPixel = (view.to - view.from) / (layout().right - layout().left);
    if (known === undefined) {
      view.at = timeAt(event.clientX);
      const y = event.clientY - canvas.getBoundingClientRect().top;
      const row = layout().rows.findIndex((r) => y < r.top + r.height);
      view.row = row < 0 ? layout().rows.length - 1 : row;
      draw();
    } else if (pointers.size === 1) {
      const by = (known - event.clientX) * perPixel;
      pointers.set(event.pointerId, event.clientX);
      place(view.from + by, view.to + by);
    } else {
      const spread = () => Math.max(20, Math.abs([...pointers.values()].reduce((a, b) => a - b)));
      const before = spread();
      pointers.set(event.pointerId, event.clientX);
      zoom(before / spread());
    }
  }

  const MOVES = {
    left: () => move(-0.5),
    right: () => move(0.5),
    in: () => zoom(0.5, view.at ?? undefined),
    out: () => zoom(2, view.at ?? undefined),
    all: () => {
      whole();
      draw();
    },
  };

  function readNext(by) {
    const times = view.video.times;
    const i = view.at === null ? nearest(times, view.from) : nearest(times, view.at) + by;
    view.at = times[clamp(i, 0, times.length - 1)];
    if (view.at < view.from || view.at > view.to) move(Math.sign(by) * 0.5);
    else draw();
  }

  const KEYS = {
    ArrowLeft: () => move(-0.2),
    ArrowRight: () => move(0.2),
    ArrowUp: () => readRow(-1),
    ArrowDown: () => readRow(1),
    Home: () => move(-1e9),
    End: () => move(1e9),
    "+": MOVES.in,
    "=": MOVES.in,
    "-": MOVES.out,
    0: MOVES.all,
    ",": () => readNext(-1),
    ".": () => readNext(1),
  };

  function readRow(by) {
    view.row = clamp(view.row + by, 0, data.tasks[view.task].labels.length - 1);
    if (view.at === null) readNext(0);
    else draw();
  }

  function connect() {
    find("viewer").hidden = false;
    const taskChoice = find("task-choice");
    taskChoice.replaceChildren(...tasks.map((task) => element("option", { value: task }, task)));
    taskChoice.parentElement.hidden = tasks.length < 2;
    taskChoice.addEventListener("change", () => {
      view.task = taskChoice.value;
      view.row = 0;
      listVideos();
    });
    find("order-choice").addEventListener("change", listVideos);
    find("video-choice").addEventListener("change", (event) => {
      show(data.videos[Number(event.target.value)]);
    });
    for (const button of document.querySelectorAll("[data-move]")) {
      button.addEventListener("click", MOVES[button.dataset.move]);
    }
    canvas.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, event.clientX);
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", pointed);
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
    }
    canvas.addEventListener("pointerleave", (event) => {
      if (pointers.has(event.pointerId)) return;
      view.at = null;
      draw();
    });
    canvas.addEventListener("dblclick", (event) => zoom(0.5, timeAt(event.clientX)));
    canvas.addEventListener(
      "wheel",
      (event) => {
        // Without Ctrl the wheel scrolls the page, as everywhere.
        if (!event.ctrlKey) return;
        event.preventDefault();
        zoom(Math.exp(clamp(event.deltaY, -200, 200) / 250), timeAt(event.clientX));
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => {
      const action = KEYS[event.key];
      if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      action();
    });
    listVideos();
  }

  function drawAll() {
    panels.forEach((panel) => panel.draw());
    draw();
  }

  if (tasks.length) connect();
  drawAll();
  window.addEventListener("resize", drawAll);
  window.matchMedia?.("(prefers-color-scheme: dark)").addEventListener?.("change", drawAll);

  // Paper is white, and nothing can be unfolded on it.
  let unfolded = [];
  window.addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll("details:not([open])")];
    unfolded.forEach((details) => (details.open = true));
    document.documentElement.classList.add("printing");
    drawAll();
  });
  window.addEventListener("afterprint", () => {
    unfolded.forEach((details) => (details.open = false));
    document.documentElement.classList.remove("printing");
    drawAll();
  });
})();

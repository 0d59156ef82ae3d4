// Brings the explorers of a page to life. Each block carries this script and its own data; a block
// that is already alive is left alone, so it doesn't matter how often the script runs.
(() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const LINE = 17; // height of a label
  const KEY = 20; // length of the stroke shown beside a label
  const CELL = 26; // height of a row of shares below the plot

  for (const section of document.querySelectorAll("section.descent-explorer:not([data-ready])")) start(section);

  function start(section) {
    const data = JSON.parse(section.querySelector('script[type="application/json"]').textContent);
    const knobs = [...section.querySelectorAll(".descent-control input, .descent-control select")];
    const plot = section.querySelector(".descent-plot");
    const summary = section.querySelector(".descent-summary");
    const first = knobs.map(read);
    let width = 0;

    const show = () => {
      const picture = data.pictures[place(knobs, data.counts)];
      if (width) draw(plot, data, picture, width, section.id, knobs);
      knobs.forEach(label);
      if (summary.textContent !== picture.summary) summary.textContent = picture.summary;
      summary.classList.toggle("answered", picture.summary.includes("✓"));
    };
    const moved = () => {
      show();
      say(section, summary.textContent);
    };
    const resize = () => {
      const style = getComputedStyle(plot);
      const now = Math.floor(plot.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
      if (now <= 0 || now === width) return;
      width = now;
      reserve(summary, data);
      show();
    };

    for (const knob of knobs) knob.addEventListener("input", moved);
    for (const hidden of section.querySelectorAll("[hidden]")) hidden.hidden = false;
    const press = (does, act) => section.querySelector(`[data-does="${does}"]`)?.addEventListener("click", act);
    press("reset", () => { knobs.forEach((knob, k) => write(knob, first[k])); moved(); });
    press("play", () => play(plot));
    new ResizeObserver(resize).observe(plot); // fires at once, and when a folded block is opened
    addEventListener("descent-placed", resize); // to be as high as it will stay, before the page scrolls
    plot.addEventListener("pointerdown", (event) => take(event, plot, moved, knobs));
    // The mark under a finger is drawn anew at each move, and the page would take the touch for a scroll.
    const held = (event) => event.target.closest("[data-drags]") && event.preventDefault();
    plot.addEventListener("touchstart", held, { passive: false });
    section.dataset.ready = "";
  }

  function read(knob) {
    return knob.tagName === "SELECT" ? knob.selectedIndex : Number(knob.value);
  }

  function write(knob, place) {
    knob[knob.tagName === "SELECT" ? "selectedIndex" : "value"] = place;
  }

  // What a change came to is told once, when the reader's hand rests.
  function say(section, words) {
    clearTimeout(section.waiting);
    section.waiting = setTimeout(() => (section.querySelector(".descent-spoken").textContent = words), 250);
  }

  // The curves come about from left to right, as the runs did.
  function play(plot) {
    const inside = plot.querySelector("clipPath rect");
    const whole = Number(inside.dataset.width);
    let begin; // the first frame's own time, which may be before the click
    const frame = (now) => {
      begin ??= now;
      const share = Math.min(1, (now - begin) / 3000);
      inside.setAttribute("width", whole * share);
      if (share < 1 && inside.isConnected) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  // Take hold of a mark in the picture and move its control, or its two, along.
  function take(event, plot, moved, knobs) {
    const names = event.target.closest("[data-drags]")?.dataset.drags.split(" ");
    if (!names) return;
    const held = knobs.filter((knob) => names.includes(knob.parentElement.dataset.name));
    event.preventDefault();
    plot.setPointerCapture(event.pointerId);
    const follow = (move) => {
      const svg = plot.querySelector("svg");
      const box = svg.getBoundingClientRect();
      const nearest = held.map((knob) => {
        const at = knob.parentElement.dataset.drag === "x" ? move.clientX - box.left : move.clientY - box.top;
        const gaps = svg.dataset[`places${knobs.indexOf(knob)}`].split(" ").map((v) => Math.abs(v - at));
        return gaps.indexOf(Math.min(...gaps));
      });
      if (held.every((knob, k) => Number(knob.value) === nearest[k])) return;
      held.forEach((knob, k) => (knob.value = nearest[k]));
      moved();
    };
    plot.addEventListener("pointermove", follow);
    const drop = () => plot.removeEventListener("pointermove", follow);
    for (const end of ["pointerup", "pointercancel"]) plot.addEventListener(end, drop, { once: true });
  }

  // The grid is stored with the last control varying fastest.
  function place(knobs, counts) {
    return knobs.reduce((sum, knob, k) => sum * counts[k] + read(knob), 0);
  }

  // Room for the longest summary, so that the page below doesn't jump.
  function reserve(summary, data) {
    const trial = summary.cloneNode();
    trial.style.cssText = "visibility: hidden; min-height: 0";
    trial.textContent = data.pictures.reduce((a, b) => (a.summary.length > b.summary.length ? a : b)).summary;
    summary.after(trial);
    const room = getComputedStyle(trial);
    summary.style.minHeight = room.boxSizing === "border-box" ? `${trial.offsetHeight}px` : room.height;
    trial.remove();
  }

  function label(knob) {
    if (knob.tagName === "SELECT") return;
    const text = JSON.parse(knob.dataset.texts)[Number(knob.value)];
    knob.parentElement.querySelector("output").textContent = text;
    knob.setAttribute("aria-valuetext", text);
    const range = Number(knob.max) || 1;
    knob.style.setProperty("--d-filled", `${(100 * knob.value) / range}%`);
  }

  // ---- the picture ---------------------------------------------------------------------------

  function draw(plot, data, picture, width, id, knobs) {
    const svg = element("svg", { role: "img", "aria-label": data.alt });
    plot.replaceChildren(svg); // text can only be measured on the page
    const names = picture.curves.map(([line]) => line).filter((line, k, all) => all.indexOf(line) === k && data.lines[line].label.length);
    const frame = layout(svg, data, names, width);
    cells(svg, data, picture, frame);
    const x = position(data.x, frame.left, frame.right);
    const y = position(data.y, frame.bottom, frame.top);
    axes(svg, data, frame, x, y);
    clip(svg, frame, id);
    for (const [line, k, values] of picture.curves) {
      const count = picture.curves.filter((curve) => curve[0] === line).length;
      curve(svg, data.lines[line], data.xs[k].map(x), values.map((v) => (v === null ? null : y(v))), count, id);
    }
    marks(svg, frame, x, y, knobs);
    if (frame.legend) legend(svg, data, names, width);
    else endLabels(svg, data, picture, names, frame, y);
  }

  // Labels stand at the curves' ends where the plot is wide, in rows above it on a phone.
  function layout(svg, data, names, width) {
    const widest = Math.max(...data.lines.map((line) => measure(svg, line.label))) + KEY + 20;
    const legend = width < 480 || widest > 0.36 * width;
    const left = Math.max(...ticks(data.y, 6).map((v) => measure(svg, tick(data.y, v), "tick"))) + 10;
    const top = 26 + (legend ? LINE * 1.25 * rows(svg, data, names, width).count : 0);
    const bottom = top + Math.min(300, Math.max(210, 0.48 * width));
    const height = bottom + 46 + CELL * data.maps.length;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const frame = { left, right: width - (legend ? 12 : widest), top, bottom, height, legend };
    svg.dataset.frame = [frame.left, frame.top, frame.right, frame.bottom].join(" ");
    return frame;
  }

  function axes(svg, data, frame, x, y) {
    for (const v of ticks(data.y, 6)) {
      svg.append(element("path", { class: "rule", d: `M${frame.left} ${y(v)}H${frame.right}` }));
      svg.append(text(tick(data.y, v), { class: "tick", x: frame.left - 8, y: y(v) + 4, "text-anchor": "end" }));
    }
    for (const v of ticks(data.x, (frame.right - frame.left) / 60)) {
      svg.append(element("path", { class: "axis", d: `M${x(v)} ${frame.bottom}v5` }));
      svg.append(text(tick(data.x, v), { class: "tick", x: x(v), y: frame.bottom + 18, "text-anchor": "middle" }));
    }
    svg.append(element("path", { class: "axis", d: `M${frame.left} ${frame.bottom}H${frame.right}` }));
    svg.append(text(data.x.label, { x: (frame.left + frame.right) / 2, y: frame.bottom + 38, "text-anchor": "middle" }));
    svg.append(text(data.y.label, { x: 0, y: frame.top - 11 }));
  }

  function clip(svg, frame, id) {
    const inside = element("clipPath", { id: `${id}-clip` });
    const size = { width: frame.right - frame.left + 4, height: frame.bottom - frame.top + 4 };
    inside.append(element("rect", { x: frame.left - 2, y: frame.top - 2, "data-width": size.width, ...size }));
    svg.append(inside);
  }

  // A ring on the axis for each control whose value is a place on it; one ring between the axes where
  // one control is a place on x and one on y. The sliders below the picture do the same by keyboard.
  function marks(svg, frame, x, y, knobs) {
    const rings = knobs.flatMap((knob, k) => {
      const { drag, name } = knob.parentElement.dataset;
      if (!drag) return [];
      const places = JSON.parse(knob.dataset.values).map(drag === "x" ? x : y);
      svg.dataset[`places${k}`] = places.join(" ");
      return [{ drag, name, at: places[Number(knob.value)] }];
    });
    const along = rings.filter((ring) => ring.drag === "x");
    if (rings.length === 2 && along.length === 1) {
      const across = rings.find((ring) => ring.drag === "y");
      ring(svg, along[0].at, across.at, `${along[0].name} ${across.name}`);
    } else {
      for (const { drag, name, at } of rings) ring(svg, ...(drag === "x" ? [at, frame.bottom] : [frame.left, at]), name);
    }
  }

  function ring(svg, cx, cy, names) {
    svg.append(element("circle", { class: "mark", cx, cy, r: 9, "data-drags": names }));
    svg.append(element("circle", { class: "grip", cx, cy, r: 22, "data-drags": names }));
  }

  // Rows of shares below the plot, the darker the larger.
  function cells(svg, data, picture, frame) {
    data.maps.forEach((label, k) => {
      const row = picture.maps[k];
      const from = 16 + Math.max(...data.maps.map((each) => measure(svg, each)));
      const wide = Math.min(64, (frame.right - from) / row.length);
      const y = frame.bottom + 50 + CELL * k;
      svg.append(text(label, { x: 0, y: y + 13 }));
      row.forEach((share, j) => {
        const x = from + wide * j;
        svg.append(element("rect", { class: "cell", x, y: y - 3, width: wide - 4, height: CELL - 5, "fill-opacity": 0.3 * share }));
        if (wide > 40) svg.append(text([[share.toFixed(2), ""]], { x: x + (wide - 4) / 2, y: y + 12, "text-anchor": "middle" }));
      });
    });
  }

  function curve(svg, line, x, y, count, id) {
    let d = "";
    let crosses = "";
    y.forEach((v, k) => {
      if (v === null) return;
      const here = `${x[k].toFixed(2)} ${v.toFixed(2)}`;
      const begins = k === 0 || y[k - 1] === null;
      const ends = k < y.length - 1 && y[k + 1] === null;
      d += begins ? `M${here}${ends ? "h0" : ""}` : `L${here}`;
      if (ends) crosses += `M${here}m-4 -4l8 8m0 -8l-8 8`;
    });
    const names = `${line.role} ${line.tone}${count > 1 ? " many" : ""}`;
    const group = element("g", { "clip-path": `url(#${id}-clip)` });
    group.append(element("path", { class: `curve ${names}`, d }));
    if (crosses) group.append(element("path", { class: `break ${line.tone}`, d: crosses }));
    svg.append(group);
  }

  // ---- labels --------------------------------------------------------------------------------

  function endLabels(svg, data, picture, names, frame, y) {
    const ends = names.map((line) => {
      const values = picture.curves.findLast((curve) => curve[0] === line)[2];
      const end = y(values.findLast((v) => v !== null));
      return Math.min(frame.bottom, Math.max(frame.top, end));
    });
    const heights = spread(ends, LINE);
    const low = Math.min(0, frame.bottom + 6 - Math.max(...heights)); // keep clear of the axis
    names.forEach((line, k) => name(svg, data.lines[line], frame.right + 12, heights[k] + low));
  }

  function legend(svg, data, names, width) {
    for (const { line, x, row } of rows(svg, data, names, width).items)
      name(svg, data.lines[line], x, 8 + LINE * 1.25 * row);
  }

  function rows(svg, data, names, width) {
    let x = 0;
    let row = 0;
    const items = names.map((line) => {
      const size = KEY + 6 + measure(svg, data.lines[line].label);
      if (x > 0 && x + size > width) (x = 0), row++;
      const item = { line, x, row };
      x += size + 18;
      return item;
    });
    return { items, count: names.length ? row + 1 : 0 };
  }

  function name(svg, line, x, y) {
    svg.append(element("path", { class: `key ${line.role} ${line.tone}`, d: `M${x} ${y}h${KEY}` }));
    svg.append(text(line.label, { class: `name ${line.tone}`, x: x + KEY + 6, y: y + 4.5 }));
  }

  // Move labels apart to at least `gap`, each as little as it takes: those that touch form a block,
  // which sits where its members' mean wants it.
  function spread(wanted, gap) {
    const order = wanted.map((_, k) => k).sort((a, b) => wanted[a] - wanted[b]);
    const blocks = [];
    order.forEach((k, rank) => {
      blocks.push({ sum: wanted[k] - rank * gap, count: 1 });
      while (blocks.length > 1 && mean(blocks.at(-2)) > mean(blocks.at(-1))) {
        const last = blocks.pop();
        blocks.at(-1).sum += last.sum;
        blocks.at(-1).count += last.count;
      }
    });
    const means = blocks.flatMap((block) => Array(block.count).fill(mean(block)));
    const placed = [];
    order.forEach((k, rank) => (placed[k] = means[rank] + rank * gap));
    return placed;
  }

  function mean(block) {
    return block.sum / block.count;
  }

  // ---- scales and numbers --------------------------------------------------------------------

  function position(axis, from, to) {
    const scale = axis.scale === "log" ? Math.log : (v) => v;
    const [low, high] = axis.limits.map(scale);
    return (v) => from + ((scale(v) - low) / (high - low)) * (to - from);
  }

  function ticks(axis, most) {
    const [low, high] = axis.limits;
    const inside = (v) => v >= low * (low > 0 ? 1 - 1e-9 : 1 + 1e-9) && v <= high * (high > 0 ? 1 + 1e-9 : 1 - 1e-9);
    return (axis.scale === "log" ? decades(low, high, most) : round(low, high, most)).filter(inside);
  }

  function round(low, high, most) {
    const power = 10 ** Math.floor(Math.log10((high - low) / most));
    const step = power * [1, 2, 5, 10].find((m) => (high - low) / (m * power) <= most);
    const first = Math.ceil(low / step - 1e-9);
    const count = Math.floor(high / step + 1e-9) - first + 1;
    return Array.from({ length: count }, (_, k) => (first + k) * step);
  }

  function decades(low, high, most) {
    const [a, b] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
    if (Math.log10(high / low) < 1) return round(low, high, most);
    const fine = Math.log10(high / low) < 2.2 ? [1, 2, 5] : [1];
    const stride = Math.ceil((b - a) / most);
    const powers = Array.from({ length: b - a + 1 }, (_, k) => a + k).filter((e) => e % stride === 0);
    return powers.flatMap((e) => fine.map((m) => Number(`${m}e${e}`)));
  }

  // A tick's number as runs of text. A log axis that goes far is read by its powers of ten, so
  // there all of them are written as powers.
  function tick(axis, value) {
    if (value === 0) return [["0", ""]];
    const sign = value < 0 ? "−" : "";
    const [mantissa, power] = Math.abs(value).toExponential(3).split("e").map(Number);
    const far = axis.scale === "log" && axis.limits.some((v) => Math.abs(Math.log10(v)) > 3);
    const asPower = power < -3 || power > 4 || (far && mantissa === 1 && power !== 0 && power !== 1);
    if (!asPower) return [[sign + Number(Math.abs(value).toPrecision(4)), ""]];
    return [[`${sign}${mantissa === 1 ? "" : `${mantissa}·`}10`, ""], [String(power).replace("-", "−"), "p"]];
  }

  // ---- SVG -----------------------------------------------------------------------------------

  function element(tag, attributes) {
    const node = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }

  // Runs of text: i for italic, s for a subscript, p for a superscript.
  function text(runs, attributes) {
    const node = element("text", attributes);
    let shift = 0;
    for (const [content, style] of runs) {
      const wanted = style.includes("s") ? 3.5 : style.includes("p") ? -5 : 0;
      const span = element("tspan", { dy: wanted - shift });
      if (style.includes("i")) span.setAttribute("font-style", "italic");
      if (wanted) span.setAttribute("style", "font-size: 0.75em");
      span.textContent = content;
      node.append(span);
      shift = wanted;
    }
    return node;
  }

  function measure(svg, runs, names = "") {
    const node = text(runs, { class: names });
    svg.append(node);
    const length = node.getComputedTextLength();
    node.remove();
    return length;
  }
})();

"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const form = document.getElementById("filters");
  const theme = document.getElementById("theme");
  const part = document.getElementById("part");
  const darkPreferred = matchMedia("(prefers-color-scheme: dark)");
  const printed = matchMedia("print");
  let printing = printed.matches;

  // ---- What is chosen

  const chosen = (name) =>
    new Set(all(`input[name="${name}"]:checked`, form).map((box) => Number(box.value)));

  function choice() {
    const [maps, classes, seeds] = ["map", "class", "seed"].map(chosen);
    const has = (set, value) => value === null || set.has(value);
    return ([map, cls, seed]) => has(maps, map) && has(classes, cls) && has(seeds, seed);
  }

  function numbers(element) {
    return ["map", "class", "seed"].map((name) =>
      name in element.dataset ? Number(element.dataset[name]) : null);
  }

  function filter() {
    const keeps = choice();
    for (const element of all("main [data-map], main [data-class], main [data-seed]")) {
      element.hidden = !keeps(numbers(element));
    }
    const counts = [["map", data.nouns], ["class", "classes"], ["seed", "seeds"]]
      .filter(([name]) => form.querySelector(`fieldset:not([hidden]) input[name="${name}"]`))
      .map(([name, noun]) => `${chosen(name).size} of ${all(`input[name="${name}"]`, form).length} ${noun}`);
    document.getElementById("shown").textContent = `Shown: ${counts.join(", ")}`;
    drawAll();
  }

  // ---- Charts: Python gives lines and points of runs; means, bands and colours are made here.

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  // Steps that all lines have, with the values of the lines.
  function shared(lines) {
    const found = new Map();
    for (const line of lines) {
      line.x.forEach((x, i) => {
        if (line.y[i] === null) return;
        if (!found.has(x)) found.set(x, []);
        found.get(x).push(line.y[i]);
      });
    }
    return [...found].filter(([, values]) => values.length === lines.length).sort(([a], [b]) => a - b);
  }

  // Lines of one look as a single trace with gaps: a trace per run takes seconds of 1,000 runs.
  const joined = (lines) => ({
    x: lines.flatMap(({ x }) => [...x, null]), y: lines.flatMap(({ y }) => [...y, null]),
  });

  function curves(chart, keeps) {
    const [bands, runs, means] = [[], [], []];
    data.maps.forEach(({ title, colour, dash, round }, number) => {
      const lines = chart.lines.filter((one) =>
        one.map === number && keeps([one.map, chart.class_number, one.seed]));
      const drawn = (x, y, line, more) => ({ mode: "lines", x, y, line: { color: colour, dash, ...line }, ...more });
      const split = chart.without_mean.includes(number);
      const done = lines.filter((one) => one.done);
      for (const [group, line] of [[done, { width: 1 }], [lines.filter((one) => !one.done), { width: 1, dash: "dot" }]]) {
        const { x, y } = joined(group);
        runs.push(drawn(x, y, line, { opacity: split ? 0.8 : 0.4, hoverinfo: "skip" }));
      }
      if (split) return;
      const steps = shared(done);
      const x = steps.map(([step]) => step);
      const y = (of) => steps.map(([, values]) => of(values));
      if (!x.length) return;
      if (done.length > 1) {
        const [high, low] = [y((values) => Math.max(...values)), y((values) => Math.min(...values))];
        const edge = { width: round ? 0.8 : 0 };  // tells bands of one colour apart
        bands.push(drawn([...x, ...[...x].reverse()], [...high, ...low.reverse()], edge,
          { fill: "toself", fillcolor: colour, opacity: 0.14, hoverinfo: "skip" }));
      }
      const text = steps.map(([step, values]) =>
        `${title}, step ${step}: mean ${mean(values).toPrecision(3)} of ${values.length}`);
      means.push(drawn(x, y(mean), { width: 2.5 }, { text, hoverinfo: "text" }));
    });
    return [...bands, ...runs, ...means];
  }

  // Lines whose bands Python has computed over all runs.
  function banded(chart, keeps) {
    const shown = chart.banded.filter((one) => keeps([one.map, chart.class_number, null]));
    const look = ({ map, in_steps: steps }) =>
      ({ color: data.maps[map].colour, dash: data.maps[map].dash, shape: steps ? "hv" : "linear" });
    // Fills know no steps: the corners are drawn.
    const corners = ({ x, in_steps: steps }, y) => x.flatMap((value, i) =>
      (steps && i ? [[value, y[i - 1]], [value, y[i]]] : [[value, y[i]]]));
    const bands = shown.map((one) => {
      const edge = [...corners(one, one.high), ...corners(one, one.low).reverse()];
      return { mode: "lines", x: edge.map(([x]) => x), y: edge.map(([, y]) => y), fill: "toself",
        fillcolor: look(one).color, opacity: 0.14, hoverinfo: "skip", line: { color: look(one).color, width: 0.8 } };
    });
    return [...bands, ...shown.map((one) => ({
      mode: one.in_steps ? "lines" : "lines+markers", x: one.x, y: one.y, text: one.texts, hoverinfo: "text",
      line: { ...look(one), width: 2.5 }, marker: { color: look(one).color, size: 7 },
    }))];
  }

  const markers = (points, marker) => ({
    mode: "markers", x: points.map(({ x }) => x), y: points.map(({ y }) => y),
    text: points.map(({ text }) => text), hoverinfo: "text", marker,
  });

  function points(chart, shown, rows) {
    const placed = shown.map((one) => (chart.in_rows ? { ...one, y: rows.indexOf(one.map) + one.y } : one));
    const found = [markers(placed, {
      symbol: placed.map(({ symbol }) => symbol), size: placed.map(({ size }) => size),
      color: placed.map(({ map }) => data.maps[map].colour),
      line: { width: placed.map(({ symbol }) => (/open|dot/.test(symbol) ? 2 : 1)) },
    })];
    for (const { map, low, high } of chart.spans.filter((span) => rows.includes(span.map))) {
      const y = rows.indexOf(map) + 0.3;
      found.push({ mode: "lines", x: [low, high], y: [y, y], hoverinfo: "text",
        text: `${data.maps[map].title}: ${low.toPrecision(3)} to ${high.toPrecision(3)}`,
        line: { color: data.maps[map].colour, width: 3 } });
    }
    if (chart.has_means) {
      const means = rows.map((map, y) => {
        const values = shown.filter((one) => one.map === map && one.counts).map(({ x }) => x);
        const text = `${data.maps[map].title}: mean ${mean(values).toFixed(3)} of ${values.length}`;
        return { map, x: mean(values), y, text };
      }).filter(({ x }) => !Number.isNaN(x));
      const color = means.map(({ map }) => data.maps[map].colour);
      found.push(markers(means, { symbol: "line-ns-open", size: 20, color, line: { width: 3, color } }));
    }
    return found;
  }

  // What all charts share, in the colours of the theme.
  function template(place) {
    const { color: soft, borderTopColor: line, backgroundColor: ground } = getComputedStyle(place);
    const { color: ink, fontFamily: family } = getComputedStyle(document.body);
    const axis = {
      gridcolor: line, linecolor: line, showline: true, zeroline: false, fixedrange: true, automargin: true,
      tickfont: { color: soft }, title: { font: { color: soft, size: 13 }, standoff: 8 },
    };
    return {
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family, size: 12, color: soft },
        dragmode: false, hovermode: "closest", xaxis: axis, yaxis: axis,
        hoverlabel: { bgcolor: ground, bordercolor: line, font: { color: ink }, align: "left" },
      },
      data: { scatter: [{ showlegend: false, cliponaxis: false, marker: { opacity: 1, line: { color: ground } } }] },
    };
  }

  function layout(chart, rows, place, empty) {
    const titled = ({ title, ...axis }) => (title ? { ...axis, title: { text: title } } : axis);
    const inRows = {
      tickvals: rows.map((_, i) => i), ticktext: rows.map((map) => data.maps[map].label),
      range: [rows.length - 0.45, -0.55], showgrid: false,
      tickfont: { color: getComputedStyle(document.body).color },
    };
    const size = printing
      ? { width: place.closest(".charts").classList.contains("single") ? 640 : 312, autosize: false }
      : { autosize: true };
    return {
      template: template(place),
      margin: { l: chart.in_rows ? 8 : 54, r: 14, t: 10, b: 48 },
      height: chart.in_rows ? 74 + 40 * Math.max(1, rows.length) : chart.height,
      xaxis: titled(chart.xaxis),
      yaxis: chart.in_rows ? inRows : titled(chart.yaxis),
      annotations: empty ? [{ text: "nothing to show for this choice", showarrow: false, xref: "paper",
        yref: "paper", x: 0.5, y: 0.5 }] : [],
      ...size,
    };
  }

  function draw(chart) {
    const place = document.getElementById(chart.id);
    if (place.closest("figure").hidden) return;
    const keeps = choice();
    const shown = chart.points.filter((one) => keeps([one.map, one.class_number, one.seed]));
    const rows = data.maps.map((_, map) => map).filter((map) =>
      chart.has_means && !chart.of_others ? keeps([map, null, null]) : shown.some((one) => one.map === map));
    const traces = [...curves(chart, keeps), ...banded(chart, keeps), ...points(chart, shown, rows)]
      .filter(({ x }) => x.length).map((trace) => ({ type: "scatter", ...trace }));
    Plotly.react(place, traces, layout(chart, rows, place, !traces.length),
      { displayModeBar: false, responsive: true });
  }

  // Of many charts, those in sight come first, and the page answers between the others.
  const MANY = 40;
  let turn = 0;

  function drawAll() {
    turn += 1;
    if (printing || data.charts.length <= MANY) {
      data.charts.forEach(draw);
      return;
    }
    const mine = turn;
    const inSight = ({ id }) => {
      const { top, bottom } = document.getElementById(id).getBoundingClientRect();
      return bottom > -innerHeight && top < 2 * innerHeight;
    };
    const left = [...data.charts];
    const next = () => {
      if (mine !== turn || !left.length) return;
      const [chart] = left.splice(Math.max(0, left.findIndex(inSight)), 1);
      draw(chart);
      setTimeout(next);
    };
    next();
  }

  // ---- Tables

  function sortBy(button) {
    const head = button.closest("th");
    const table = head.closest("table");
    const place = [...head.parentElement.children].indexOf(head);
    const up = head.getAttribute("aria-sort") !== "ascending";
    all("th[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.children[place].dataset.sort;
    const compare = (a, b) =>
      head.classList.contains("number") ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true });
    const rows = [...table.tBodies[0].rows].sort((one, other) => {
      const [a, b] = [key(one), key(other)];
      // What is unknown stays at the end, whichever way.
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      return up ? compare(a, b) : compare(b, a);
    });
    table.tBodies[0].append(...rows);
  }

  // ---- What the reader does

  function setTheme(dark) {
    root.dataset.theme = dark ? "dark" : "light";
    theme.setAttribute("aria-pressed", String(dark));
  }

  function setPart(without) {
    part.setAttribute("aria-pressed", String(without));
    all("[data-part]").forEach((element) => {
      element.hidden = (element.dataset.part === "without") !== without;
    });
    const failed = new Set(JSON.parse(part.dataset.seeds));
    all('input[name="seed"]', form).forEach((box) => {
      if (failed.has(Number(box.value))) box.checked = !without;
    });
    filter();
  }

  function setPrinting(now) {
    if (printing === now) return;
    printing = now;
    drawAll();
  }

  const controls = document.getElementById("controls");
  const wide = matchMedia("(min-width: 70rem)");
  controls.open = wide.matches;
  wide.addEventListener("change", () => { controls.open = wide.matches; });
  // On a narrow screen the controls cover what they lead to.
  all("nav a").forEach((link) => link.addEventListener("click", () => { controls.open = wide.matches; }));

  form.addEventListener("change", filter);
  all("[data-all]", form).forEach((button) => button.addEventListener("click", () => {
    all(`input[name="${button.dataset.all}"]`, form).forEach((box) => { box.checked = "on" in button.dataset; });
    filter();
  }));
  form.addEventListener("reset", () => setTimeout(() => (part ? setPart(false) : filter())));
  form.addEventListener("submit", (event) => event.preventDefault());
  theme.addEventListener("click", () => { setTheme(root.dataset.theme !== "dark"); drawAll(); });
  if (part) part.addEventListener("click", () => setPart(part.getAttribute("aria-pressed") !== "true"));
  all(".sort").forEach((button) => button.addEventListener("click", () => sortBy(button)));
  darkPreferred.addEventListener("change", (event) => { setTheme(event.matches); drawAll(); });
  printed.addEventListener("change", (event) => setPrinting(event.matches));
  addEventListener("beforeprint", () => setPrinting(true));
  addEventListener("afterprint", () => setPrinting(false));

  setTheme(darkPreferred.matches);
  filter();
})();

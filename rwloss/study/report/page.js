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
    const counts = [["map", "maps"], ["class", "classes"], ["seed", "seeds"]]
      .filter(([name]) => form.querySelector(`input[name="${name}"]`))
      .map(([name, noun]) => `${chosen(name).size} of ${all(`input[name="${name}"]`, form).length} ${noun}`);
    document.getElementById("shown").textContent = `Shown: ${counts.join(", ")}`;
    drawAll();
  }

  // ---- Charts

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  // Values of all counted lines of a map, at the steps that each of them has.
  function steps(lines) {
    const found = new Map();
    for (const { plot } of lines) {
      plot.x.forEach((x, i) => {
        if (plot.y[i] !== null) found.set(x, [...(found.get(x) || []), plot.y[i]]);
      });
    }
    return [...found].filter(([, values]) => values.length === lines.length).sort(([a], [b]) => a - b);
  }

  function traces(chart, keeps, rows, ground) {
    const { series } = chart;
    const row = (map) => rows.indexOf(map);
    const ofMap = (role, map) => series.filter((one) => one.role === role && one.keys[0]?.[0] === map);
    const lines = (map) => ofMap("line", map).filter((one) => one.counts[0] && keeps(one.keys[0]));
    const drawn = {
      line: (one) => one.plot,
      mean: (one) => {
        const of = lines(one.keys[0][0]);
        const found = steps(of);
        const text = found.map(([x, values]) =>
          `${one.plot.name}, step ${x}: mean ${mean(values).toPrecision(3)} of ${values.length}`);
        return { ...one.plot, x: found.map(([x]) => x), y: found.map(([, values]) => mean(values)), text };
      },
      band: (one) => {
        const found = steps(lines(one.keys[0][0]));
        if (found.length && found[0][1].length < 2) return { ...one.plot, x: [], y: [] };
        const x = found.map(([step]) => step);
        const low = found.map(([, values]) => Math.min(...values));
        const high = found.map(([, values]) => Math.max(...values));
        return { ...one.plot, x: [...x, ...[...x].reverse()], y: [...high, ...low.reverse()] };
      },
      points: (one) => {
        const kept = one.keys.map((key, i) => i).filter((i) => keeps(one.keys[i]));
        const pick = (values) => kept.map((i) => values[i]);
        const { marker } = one.plot;
        const each = (values) => (Array.isArray(values) ? pick(values) : values);
        const style = { ...marker, symbol: each(marker.symbol), line: { ...marker.line, width: each(marker.line.width) } };
        const y = chart.in_rows
          ? kept.map((i) => row(one.keys[i][0]) + one.shifts[i])
          : pick(one.plot.y);
        return { ...one.plot, x: pick(one.plot.x), y, text: pick(one.plot.text), marker: style };
      },
      centre: (one) => {
        const map = one.keys[0][0];
        const values = ofMap("points", map).flatMap((points) =>
          points.plot.x.filter((x, i) => points.counts[i] && keeps(points.keys[i])));
        if (!values.length) return { ...one.plot, x: [], y: [] };
        const text = [`${one.plot.name}: mean ${mean(values).toFixed(3)} of ${values.length}`];
        return { ...one.plot, x: [mean(values)], y: [row(map)], text };
      },
    };
    return series
      .filter((one) => one.role === "points" || keeps(one.keys[0]))
      .map((one) => drawn[one.role](one))
      .filter((plot) => plot.x && plot.x.length)
      .map((plot) => plot.marker && plot.marker.line && !plot.marker.line.color
        ? { ...plot, marker: { ...plot.marker, line: { ...plot.marker.line, color: ground } } } : plot)
      .map((plot) => ({ showlegend: false, cliponaxis: false, ...plot }));
  }

  function layout(chart, rows, place, empty) {
    const { color: soft, borderTopColor: line, backgroundColor: ground } = getComputedStyle(place);
    const ink = getComputedStyle(document.body).color;
    const axis = (own) => ({
      gridcolor: line, zerolinecolor: line, linecolor: line, tickfont: { color: soft }, automargin: true,
      zeroline: false, fixedrange: true, ...own,
      title: own.title ? { text: own.title, font: { color: soft, size: 13 }, standoff: 8 } : undefined,
    });
    const inRows = {
      tickvals: rows.map((_, i) => i), ticktext: rows.map((map) => data.maps[map]),
      range: [rows.length - 0.45, -0.55], showgrid: false, tickfont: { color: ink },
    };
    const made = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: soft },
      margin: { l: chart.in_rows ? 8 : 54, r: 14, t: 10, b: 48 },
      height: chart.in_rows ? 74 + 40 * Math.max(1, rows.length) : chart.height,
      dragmode: false, hovermode: "closest",
      hoverlabel: { bgcolor: ground, bordercolor: line, font: { color: ink }, align: "left" },
      xaxis: axis(chart.xaxis),
      yaxis: chart.in_rows ? { ...axis({}), ...inRows } : axis(chart.yaxis),
      annotations: empty ? [{ text: "nothing to show for this choice", showarrow: false, xref: "paper",
        yref: "paper", x: 0.5, y: 0.5, font: { color: soft } }] : [],
    };
    if (printing) {
      const single = place.closest(".charts").classList.contains("single");
      return { ...made, width: single ? 640 : 312, autosize: false };
    }
    return { ...made, autosize: true };
  }

  function draw(chart) {
    const place = document.getElementById(chart.id);
    if (place.closest("figure").hidden) return;
    const keeps = choice();
    const has = (map) => chart.series.some((one) => one.keys.some((key) => key[0] === map && keeps(key)));
    const rows = data.maps.map((_, i) => i).filter(has);
    const found = traces(chart, keeps, rows, getComputedStyle(place).backgroundColor);
    Plotly.react(place, found, layout(chart, rows, place, !found.length),
      { displayModeBar: false, responsive: true });
  }

  const drawAll = () => data.charts.forEach(draw);

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

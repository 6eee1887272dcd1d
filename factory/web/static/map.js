// The map of samples: points on a canvas, with zoom, hover and a lasso. Texts are set as text only.
(() => {
  "use strict";
  const canvas = document.getElementById("map");
  if (!canvas) return;
  const byId = (id) => document.getElementById(id);
  const pen = canvas.getContext("2d");
  const LISTED = 100, REACH = 12, SIZE = 3.5;
  const KINDS = { // value → [colour, shape, word]
    state: {
      accepted: ["--accepted", "dot", "accepted"], fixed: ["--fixed", "diamond", "fixed"],
      rejected: ["--rejected", "cross", "rejected"], in_review: ["--muted", "ring", "in review"],
      generated: ["--muted", "ring", "not reviewed"], filtered: ["--line", "ring", "filtered out"],
      real: ["--base", "square", "real"],
    },
    origin: {
      synthetic: ["--expert", "ring", "generated"], real: ["--base", "square", "real"],
      corrected: ["--fixed", "diamond", "corrected"],
    },
  };
  let points = [], view = { x: 0, y: 0, zoom: 1 }, lasso = [], chosen = new Set(), near = null;
  let until = Infinity, from = null;

  const kindOf = (point) => byId("map-colour").value === "origin" ? point.origin
    : point.origin === "real" ? "real" : point.state;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
  const scale = () => Math.min(canvas.clientWidth, canvas.clientHeight) * 0.46 * view.zoom;
  const place = (point) => [
    canvas.clientWidth / 2 + (point.x - view.x) * scale(),
    canvas.clientHeight / 2 - (point.y - view.y) * scale(),
  ];
  const shown = () => points.filter((point) => point.time <= until);

  function mark(shape, x, y, size) {
    pen.beginPath();
    if (shape === "cross") {
      pen.moveTo(x - size, y - size); pen.lineTo(x + size, y + size);
      pen.moveTo(x + size, y - size); pen.lineTo(x - size, y + size);
    } else if (shape === "square") pen.rect(x - size * 0.8, y - size * 0.8, size * 1.6, size * 1.6);
    else if (shape === "diamond") {
      pen.moveTo(x, y - size * 1.3); pen.lineTo(x + size * 1.3, y); pen.lineTo(x, y + size * 1.3);
      pen.lineTo(x - size * 1.3, y); pen.closePath();
    } else pen.arc(x, y, size, 0, 2 * Math.PI);
    if (shape === "ring" || shape === "cross") pen.stroke(); else pen.fill();
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    pen.scale(ratio, ratio);
    const kinds = KINDS[byId("map-colour").value], paints = {};
    for (const [kind, [name]] of Object.entries(kinds)) paints[kind] = colour(name);
    pen.lineWidth = 1.6;
    for (const point of shown()) {
      const kind = kindOf(point), [x, y] = place(point);
      if (!kinds[kind]) continue;
      pen.strokeStyle = pen.fillStyle = paints[kind];
      mark(kinds[kind][1], x, y, chosen.has(point) || point === near ? SIZE * 1.8 : SIZE);
    }
    if (lasso.length > 1) {
      pen.strokeStyle = colour("--ink");
      pen.setLineDash([4, 3]);
      pen.beginPath();
      lasso.forEach(([x, y], i) => i ? pen.lineTo(x, y) : pen.moveTo(x, y));
      pen.closePath();
      pen.stroke();
    }
  }

  function inside([x, y]) {
    let odd = false;
    for (let i = 0, j = lasso.length - 1; i < lasso.length; j = i++) {
      const [ax, ay] = lasso[i], [bx, by] = lasso[j];
      if ((ay > y) !== (by > y) && x < (bx - ax) * (y - ay) / (by - ay) + ax) odd = !odd;
    }
    return odd;
  }

  function list() {
    const rows = [...chosen].slice(0, LISTED).map((point) => {
      const row = document.createElement("li"), link = document.createElement("a");
      const meta = document.createElement("p");
      link.href = `${canvas.dataset.sample}/${encodeURIComponent(point.id)}`;
      link.dataset.open = "";
      link.textContent = point.text || "(empty)";
      meta.className = "meta";
      meta.textContent = (KINDS.state[point.origin === "real" ? "real" : point.state] || [])[2] || "";
      row.append(link, meta);
      return row;
    });
    byId("map-list").replaceChildren(...rows);
    byId("map-none").hidden = rows.length > 0;
    byId("selected").textContent = chosen.size > LISTED
      ? `Selected: ${chosen.size}, the first ${LISTED} listed` : `Selected: ${chosen.size}`;
  }

  function legend() {
    const used = new Set(points.map(kindOf));
    const signs = { dot: "●", ring: "○", cross: "✕", diamond: "◆", square: "■" };
    const rows = Object.entries(KINDS[byId("map-colour").value])
      .filter(([kind]) => used.has(kind)).map(([kind, [, shape, word]]) => {
        const row = document.createElement("li"), sign = document.createElement("span");
        sign.className = `sign map-${kind}`;
        sign.textContent = signs[shape];
        row.append(sign, ` ${word}`);
        return row;
      });
    byId("map-legend").replaceChildren(...rows);
  }

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  function hover(spot) {
    let best = REACH ** 2, found = null;
    for (const point of shown()) {
      const [x, y] = place(point), away = (x - spot[0]) ** 2 + (y - spot[1]) ** 2;
      if (away < best) [best, found] = [away, point];
    }
    if (found === near) return;
    near = found;
    byId("map-tip").textContent = near ? near.text || "(empty)" : "Point at a sample to read it.";
    draw();
  }

  function zoom(by) {
    view.zoom = Math.min(60, Math.max(0.5, view.zoom * by));
    draw();
  }

  function move(right, up) {
    view.x += right / scale();
    view.y += up / scale();
    draw();
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    from = at(event);
    lasso = byId("map-drag").value === "select" ? [from] : [];
  });
  canvas.addEventListener("pointermove", (event) => {
    const spot = at(event);
    if (!from) return hover(spot);
    if (lasso.length) lasso.push(spot);
    else move(from[0] - spot[0], spot[1] - from[1]);
    from = spot;
    draw();
  });
  canvas.addEventListener("pointerup", () => {
    if (lasso.length > 2) chosen = new Set(shown().filter((point) => inside(place(point))));
    from = null;
    lasso = [];
    list();
    draw();
  });
  canvas.addEventListener("dblclick", () => {
    if (near) location.href = `${canvas.dataset.sample}/${encodeURIComponent(near.id)}`;
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const keys = {
      ArrowLeft: () => move(-40, 0), ArrowRight: () => move(40, 0),
      ArrowUp: () => move(0, 40), ArrowDown: () => move(0, -40),
      "+": () => zoom(1.3), "-": () => zoom(1 / 1.3),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  byId("map-in").addEventListener("click", () => zoom(1.3));
  byId("map-out").addEventListener("click", () => zoom(1 / 1.3));
  byId("map-reset").addEventListener("click", () => { view = { x: 0, y: 0, zoom: 1 }; draw(); });
  byId("map-colour").addEventListener("change", () => { legend(); draw(); });
  byId("map-time").addEventListener("input", () => {
    const first = points[0].time, last = points[points.length - 1].time;
    until = first + (last - first) * byId("map-time").value / 100;
    byId("map-until").textContent = new Date(until * 1000).toISOString().slice(0, 16).replace("T", " ");
    draw();
  });
  window.addEventListener("resize", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  fetch(canvas.dataset.points, { credentials: "same-origin" })
    .then((answer) => answer.json())
    .then((rows) => {
      points = rows.map(([id, x, y, origin, state, time, text]) => ({ id, x, y, origin, state, time, text }));
      canvas.dataset.ready = points.length;
      legend();
      draw();
    });
})();

// Draws every chart in the colours of the current theme, and again when the theme changes.
(function () {
  const charts = [...document.querySelectorAll(".chart")].map((element) => ({
    element,
    figure: JSON.parse(element.firstElementChild.textContent),
  }));
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  function themed(figure) {
    const { data, layout } = JSON.parse(JSON.stringify(figure));
    for (const trace of data) {
      if (trace.line) trace.line.color = colour(trace.line.color);
      if (trace.type === "bar") {
        trace.marker.color = colour(trace.marker.color);
        trace.textposition = "inside";
        trace.insidetextanchor = "start";
        trace.textfont = { color: colour("card") };
        trace.error_y.color = colour("ink");
      }
    }
    for (const axis of [layout.xaxis, layout.yaxis]) {
      Object.assign(axis, { gridcolor: colour("grid"), zerolinecolor: colour("line"), linecolor: colour("line") });
    }
    layout.xaxis.showgrid = false;
    Object.assign(layout, {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("soft"), family: "system-ui, sans-serif", size: 12.5 },
      hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
    });
    return { data, layout };
  }

  function draw() {
    for (const { element, figure } of charts) {
      const { data, layout } = themed(figure);
      Plotly.react(element, data, layout, { responsive: true, displayModeBar: false });
    }
  }

  // A link leads to a rollout that is folded up; not every browser unfolds it.
  function unfold() {
    const folded = document.getElementById(location.hash.slice(1))?.closest("details");
    if (folded) {
      folded.open = true;
      folded.scrollIntoView();
    }
  }

  draw();
  unfold();
  addEventListener("hashchange", unfold);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();

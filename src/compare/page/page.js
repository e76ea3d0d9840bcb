// What is under the pointer, or under the cursor that arrow keys move: in all charts of a rate at once, at the same second. Without it the
// page says the same, in tables.
'use strict';

for (const pair of document.querySelectorAll('.pair')) {
  const charts = [...pair.querySelectorAll('.plot')].map((plot) => {
    const figure = plot.closest('.chart');
    const points = plot.dataset.read.split('\n').map((line) => {
      const [second, text] = line.split('\t');
      return { second: Number(second), text };
    });
    const read = figure.querySelector('.read');
    return { plot, figure, points, read, said: read.textContent, end: Number(plot.dataset.end) };
  });

  const nearest = (points, second) =>
    points.reduce((best, one) => (Math.abs(one.second - second) < Math.abs(best.second - second) ? one : best));

  const look = (second) => {
    for (const { plot, figure, points, read, said, end } of charts) {
      const point = second === null ? null : nearest(points, second);
      // Where a mode had ended, nothing is read.
      const seen = point !== null && Math.abs(point.second - second) <= Math.max(end / 100, 1.5) ? point : null;
      figure.classList.toggle('looked', seen !== null);
      read.textContent = seen?.text ?? said;
      plot.ariaValueNow = String(seen?.second ?? 0);
      plot.ariaValueText = seen?.text ?? said;
      if (seen) for (const x of ['x1', 'x2']) figure.querySelector('.cursor').setAttribute(x, `${(seen.second / end) * 100}%`);
    }
  };

  for (const { plot, points, end } of charts) {
    let at = null;
    const move = (second) => look((at = second));
    const pointed = (event) => {
      const { left, width } = plot.getBoundingClientRect();
      move(Math.min(Math.max((event.clientX - left) / width, 0), 1) * end);
    };
    const step = (by) => {
      const index = at === null ? (by > 0 ? -1 : points.length) : points.indexOf(nearest(points, at));
      move(points[Math.min(Math.max(index + by, 0), points.length - 1)].second);
    };
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity };
    plot.tabIndex = 0;
    plot.role = 'slider';
    plot.ariaLabel = plot.querySelector('svg').ariaLabel;
    plot.ariaValueMin = '0';
    plot.ariaValueMax = String(end);
    plot.addEventListener('pointermove', pointed);
    plot.addEventListener('pointerdown', pointed);
    plot.addEventListener('pointerleave', () => move(null));
    plot.addEventListener('blur', () => move(null));
    plot.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') move(null);
      if (!(event.key in steps)) return;
      event.preventDefault();
      step(steps[event.key]);
    });
  }
  look(null);
}

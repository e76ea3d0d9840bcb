// How lags moved while the page was open: at most the last ten minutes, kept by the page itself.
'use strict';

const SPAN_S = 600;
/** Between two points that are further apart nothing is drawn: nobody knows what was there. */
const GAP_MS = 5000;
const TREND_MS = 60_000;
const TREND_MS_MIN = 10_000;
/** The plot's own units; it is stretched to the room that it has. */
const [WIDTH, HEIGHT] = [600, 100];

const CHARTS = [
  { id: 'time', title: 'Time lag', of: (totals) => totals.unparked_lag_ms, form: duration, top: durationTop },
  { id: 'messages', title: 'Message lag', of: (totals) => totals.message_lag, form: short, top: numberTop },
];

/** The next round duration, in milliseconds. */
function durationTop(ms) {
  const s = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 28_800, 43_200, 86_400];
  return 1000 * (s.find((top) => top * 1000 >= ms) ?? Math.ceil(ms / 86_400_000) * 86_400);
}

/** The next number whose half is round, too. */
function numberTop(number) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(number, 10)));
  return [1, 2, 4, 6, 8, 10].map((times) => times * unit).find((top) => top >= number);
}

/** Adds a point and forgets those that are too old. Points are `{at, totals}`. */
function remember(points, at, totals) {
  const kept = points.filter((point) => at - point.at <= SPAN_S * 1000 && point.at < at);
  return [...kept, { at, totals }];
}

/** What the message lag has done in the last minute, in words. */
function trend(points) {
  const counted = points.filter(({ totals }) => totals.message_lag !== null);
  const last = counted.at(-1);
  const first = counted.find(({ at }) => last.at - at <= TREND_MS);
  const ms = last ? last.at - first.at : 0;
  if (ms < TREND_MS_MIN) return '';
  const rate = ((last.totals.message_lag - first.totals.message_lag) * 1000) / ms;
  // A hundredth of it in a minute is nothing.
  if (Math.abs(rate) < 1 || Math.abs(rate) * 60 < last.totals.message_lag / 100) return 'steady';
  if (rate > 0) return `growing by ${perSecond(rate)}`;
  const left = (last.totals.message_lag * 1000) / -rate;
  return left < 2000 ? 'falling' : `falling by ${perSecond(-rate)}, gone in about ${duration(left).split(' ')[0]}`;
}

/** `cursor`: how many seconds before the last point the reader looks, or null. `look` takes another. */
function chart({ id, title, of, form, top: roundTop }, points, cursor, look) {
  const now = points.at(-1)?.at ?? 0;
  const values = points.map(({ at, totals }) => ({ at, value: of(totals) })).filter(({ value }) => value !== null);
  const numbers = values.map(({ value }) => value);
  const top = roundTop(Math.max(0, ...numbers));
  const said =
    numbers.length === 0
      ? 'nothing known yet'
      : `now ${form(numbers.at(-1))}, least ${form(Math.min(...numbers))}, most ${form(Math.max(...numbers))}`;
  const looked = cursor === null ? null : nearest(values, now - cursor * 1000);
  const readout = looked ? `${timeOfDay(looked.at)}: ${form(looked.value)}` : said;
  return h(
    'figure',
    { class: 'chart', key: id },
    h('figcaption', null, h('h3', { id: `chart-${id}` }, title), h('p', { class: looked ? 'looked' : null }, readout)),
    h(
      'div',
      {
        class: 'plot',
        role: 'slider',
        tabindex: '0',
        'aria-label': `${title} of the last 10 minutes: ${said}`,
        'aria-valuemin': -SPAN_S,
        'aria-valuemax': 0,
        'aria-valuenow': -(cursor ?? 0),
        'aria-valuetext': readout,
        on: {
          pointermove: (event) => look(id, secondsAgo(event)),
          pointerdown: (event) => look(id, secondsAgo(event)),
          pointerleave: () => look(id, null),
          blur: () => look(id, null),
          keydown: (event) => moved(event, id, cursor, look),
        },
      },
      h(
        'svg',
        { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
        h('path', {
          class: 'grid',
          d: `M0 0H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT}H${WIDTH}M${WIDTH / 2} 0V${HEIGHT}`,
        }),
        h('path', { class: 'area', d: area(values, now, top) }),
        h('path', { class: 'line', d: line(values, now, top) }),
        looked && h('path', { class: 'cursor', d: `M${x(looked.at, now)} 0V${HEIGHT}` }),
      ),
      looked &&
        h('i', {
          class: 'mark',
          style: { left: `${x(looked.at, now) / (WIDTH / 100)}%`, top: `${(y(looked.value, top) * 100) / HEIGHT}%` },
        }),
    ),
    h(
      'div',
      { class: 'ys', 'aria-hidden': 'true' },
      [top, top / 2, 0].map((value) => h('span', null, value === 0 ? '0' : tidy(form(value)))),
    ),
    h(
      'div',
      { class: 'xs', 'aria-hidden': 'true' },
      ['10 min ago', '5 min ago', 'now'].map((text) => h('span', null, text)),
    ),
  );
}

/** A round number without what is zero of it: 2 min, 2 M. */
const tidy = (text) => text.replace(/(\d)\.0+(?=\D)/, '$1').replace(/ 0\u202f\w+$/, '');

const x = (at, now) => Number((WIDTH - ((now - at) / (SPAN_S * 1000)) * WIDTH).toFixed(1));
const y = (value, top) => Number((HEIGHT - (value / top) * HEIGHT).toFixed(1));

/** The points between which a line may be drawn. */
function runs(values) {
  const found = [];
  for (const value of values) {
    if (found.length === 0 || value.at - found.at(-1).at(-1).at > GAP_MS) found.push([]);
    found.at(-1).push(value);
  }
  return found;
}

// A run of one point is drawn as a line to itself, which round caps make a dot.
function line(values, now, top) {
  const steps = (run) => [...run, run.at(-1)].map(({ at, value }) => `${x(at, now)} ${y(value, top)}`).join('L');
  return runs(values)
    .map((run) => `M${steps(run)}`)
    .join('');
}

function area(values, now, top) {
  const steps = (run) => run.map(({ at, value }) => `L${x(at, now)} ${y(value, top)}`).join('');
  return runs(values)
    .map((run) => `M${x(run[0].at, now)} ${HEIGHT}${steps(run)}L${x(run.at(-1).at, now)} ${HEIGHT}Z`)
    .join('');
}

function nearest(values, at) {
  return values.reduce(
    (best, value) => (!best || Math.abs(value.at - at) < Math.abs(best.at - at) ? value : best),
    null,
  );
}

function secondsAgo(event) {
  const { left, width } = event.currentTarget.getBoundingClientRect();
  return within(SPAN_S * (1 - (event.clientX - left) / width));
}

const within = (seconds) => Math.round(Math.min(SPAN_S, Math.max(0, seconds)));

function moved(event, id, cursor, look) {
  const steps = {
    ArrowLeft: 1,
    ArrowDown: 1,
    ArrowRight: -1,
    ArrowUp: -1,
    PageDown: 30,
    PageUp: -30,
    Home: SPAN_S,
    End: -SPAN_S,
  };
  if (event.key === 'Escape') look(id, null);
  if (!(event.key in steps)) return;
  event.preventDefault();
  look(id, within((cursor ?? 0) + steps[event.key]));
}

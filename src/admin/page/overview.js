// The top of the page: who answers, what is wrong, the four numbers, and how they moved.
'use strict';

const badge = (level, text) => h('span', { class: `badge ${level}` }, text);

/** Text that is data, as it was written: a key, a name, a number to copy. */
const code = (text) => h('code', null, text);

const small = (...text) => h('small', null, ...text);

function headView({ process, ready }) {
  const up = duration(process.now_ms - process.started_at_ms);
  const facts = [`forebay ${process.version}`, process.host, `up ${up}, since ${moment(process.started_at_ms)}`];
  const level = ready.ready ? (ready.reasons.length > 0 ? 'warn' : 'ok') : 'bad';
  return [
    h('h1', null, visible(process.group)),
    badge(level, ready.ready ? 'Ready' : 'Not ready'),
    process.leaving && badge('warn', 'Draining'),
    h(
      'p',
      { class: 'facts' },
      facts.map((fact) => h('span', null, fact)),
    ),
    ready.reasons.length > 0 &&
      h(
        'ul',
        { class: `reasons ${level}`, 'aria-label': ready.ready ? 'Ready, but' : 'Not ready, because' },
        ready.reasons.map((reason) => h('li', null, visible(reason))),
      ),
  ];
}

function diagnosisView({ findings: [first, ...more] }) {
  const linked = (found) => {
    const [at, text] = [anchorOf(found), visible(found.text)];
    return at === null ? text : h('a', { href: `#${at}` }, text);
  };
  return h(
    'div',
    { class: `diagnosis ${levelOf(first)}` },
    h('p', { class: 'first' }, h('span', { class: 'sign', 'aria-hidden': 'true' }), visible(first.text)),
    more.length > 0 &&
      h(
        'ul',
        null,
        more.map((found) => h('li', { class: levelOf(found) }, linked(found))),
      ),
  );
}

function stationsView(status) {
  return h(
    'ol',
    { class: 'stations', 'aria-label': 'The way of a write' },
    stations(status).map(({ name, level, text, at }) => {
      return h(
        'li',
        { key: name, class: level },
        h('a', { href: `#${at}` }, h('b', null, name), ' ', h('span', null, text)),
      );
    }),
  );
}

/** `moves`: what the message lag has done lately, in words. */
function tilesView(status, moves) {
  const { totals } = status;
  const oldest = oldestPartition(status);
  const lagLevel = lateLevel(status);
  const parkedAge = Math.max(0, ...status.partitions.map(({ parked_age_ms }) => parked_age_ms ?? 0));
  return [
    tile(
      'Time lag',
      duration(totals.unparked_lag_ms),
      oldest ? ['oldest: ', partitionName(oldest), placeText(oldest)] : ['nothing waits'],
      lagLevel,
    ),
    tile(
      'Message lag',
      known(totals.message_lag, short),
      [
        h('span', null, count(totals.in_flight_records, 'record'), ' in flight, ', bytes(totals.in_flight_bytes)),
        h('span', null, moves),
      ],
      totals.message_lag === null ? null : lagLevel,
    ),
    tile('Durable', perSecond(totals.durable_per_s), ['fetched ', perSecond(totals.fetched_per_s)]),
    tile(
      'Parked',
      count(totals.parked_keys, 'key'),
      [
        h('a', { href: '#parked' }, count(totals.parked_records, 'record')),
        parkedAge > 0 && `, the oldest ${duration(parkedAge)} old`,
        '; ',
        h('a', { href: '#letters' }, count(totals.dead_letters, 'dead letter')),
        ' since the start',
      ],
      totals.parked_keys > 0 ? 'warn' : null,
    ),
  ];
}

const tile = (title, number, facts, level) =>
  h(
    'div',
    { class: `tile ${level ?? ''}`, key: title },
    h('h2', null, title),
    h('p', { class: 'number' }, number),
    h('p', { class: 'fact' }, ...facts),
  );

function oldestPartition({ partitions }) {
  const waiting = partitions.filter(oldestUnparked);
  return waiting.reduce((oldest, one) => (one.unparked_lag_ms > (oldest?.unparked_lag_ms ?? -1) ? one : oldest), null);
}

function placeText(partition) {
  const { place, shard } = oldestUnparked(partition);
  return `, ${place}${shard ? ` in shard ${shard}` : ''}`;
}

function chartsView(points, cursors, look) {
  return CHARTS.map((spec) => chart(spec, points, cursors[spec.id] ?? null, look));
}

/** `cpu`: the share of one core since the answer before, or null. */
function processView({ process, totals }, cpu) {
  const facts = [
    ['Process', `pid ${process.pid} on ${process.host}`],
    ['librdkafka', process.librdkafka],
    ['Poller turned', `${duration(process.poll_age_ms)} ago`],
    [
      'CPU',
      `${known(cpu, (share) => `${percent(share)} of a core`)}; ${known(process.cpu_ms, duration)} since the start`,
    ],
    ['Memory', known(process.memory_bytes, bytes)],
    ['Fetched', grouped(totals.fetched)],
    ['Durable', grouped(totals.durable)],
    ['Rebalances', grouped(totals.rebalances)],
    ['Rewinds', grouped(totals.rewinds)],
    ['Log level', code(process.log_level)],
  ];
  return factsView(facts);
}

const factsView = (facts) =>
  h(
    'dl',
    { class: 'facts' },
    facts.map(([name, value]) => h('div', { key: name }, h('dt', null, name), h('dd', null, value))),
  );

/** Wide tables scroll in a frame of their own, never the page. */
function table(label, heads, rows, props) {
  const head = (one) =>
    typeof one === 'string'
      ? h('th', { scope: 'col', class: one.startsWith('#') ? 'number' : null }, one.replace('#', ''))
      : one;
  return h(
    'div',
    { class: 'scroll', ...props },
    h(
      'table',
      null,
      h('caption', null, label),
      h('thead', null, h('tr', null, heads.map(head))),
      h('tbody', null, rows),
    ),
  );
}

const cell = (...content) => h('td', null, ...content);
const numberCell = (...content) => h('td', { class: 'number' }, ...content);

/** `doing`: whether it is under way. It keeps the focus meanwhile, and does nothing. */
function actionButton(text, label, doing, run, isGrave) {
  return h(
    'button',
    {
      type: 'button',
      class: isGrave ? 'grave' : null,
      'aria-label': label,
      'aria-disabled': doing ? 'true' : null,
      on: { click: () => !doing && run() },
    },
    text,
  );
}

const nothing = (text) => h('p', { class: 'nothing' }, text);

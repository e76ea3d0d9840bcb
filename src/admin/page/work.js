// Of the work itself: partitions and what holds each of them up, topics, and the heaviest keys.
'use strict';

/** So many rows are shown before the reader asks for all. */
const ROWS = 25;

/** How far one offset is before another, if both are known. */
const ahead = (offset, durable) => (offset === null || durable === null ? 0 : offset - durable);

/** What a row is about, as its time lag is: the oldest record that is not parked, else the oldest that is. */
const shownFrontier = (one) => oldestUnparked(one) ?? one.frontier;

const PARTITION_COLUMNS = [
  { id: 'partition', title: 'Partition', of: ({ topic, partition }) => [topic, partition] },
  { id: 'state', title: 'State', of: ({ state, paused }) => [state, paused ? 1 : 0] },
  { id: 'age', title: 'Time lag', isNumber: true, of: ({ unparked_lag_ms }) => [unparked_lag_ms] },
  { id: 'lag', title: 'Lag', isNumber: true, of: ({ message_lag }) => [message_lag ?? -1] },
  { id: 'flight', title: 'In flight', isNumber: true, of: ({ in_flight_records }) => [in_flight_records] },
  { id: 'durable', title: 'Durable up to', isNumber: true, of: ({ durable }) => [durable ?? -1] },
  {
    id: 'committed',
    title: 'Committed',
    isNumber: true,
    of: ({ committed, durable }) => [ahead(committed, durable)],
  },
  { id: 'fetched', title: 'Fetched', isNumber: true, of: ({ fetched, durable }) => [ahead(fetched, durable)] },
  { id: 'end', title: 'Log’s end', isNumber: true, of: ({ end, durable }) => [ahead(end, durable)] },
  { id: 'frontier', title: 'Held up by', of: (one) => [shownFrontier(one)?.age_ms ?? -1] },
];

/** How much a partition needs somebody's eyes, the most first. */
function trouble(one) {
  const oldest = oldestUnparked(one);
  const tries = (oldest?.blocked_by.length ?? 0) > 0 || (oldest?.attempt ?? 0) > 1 || Boolean(oldest?.last);
  const rank = one.state === 'stopped' ? 3 : tries ? 2 : one.unparked_lag_ms >= LATE_MS ? 1 : 0;
  // Not by the millisecond: rows would change places all the time.
  return [rank, Math.floor(Math.log2(one.unparked_lag_ms + 1))];
}

function compared(a, b) {
  for (let index = 0; index < a.length; index += 1) {
    if (a[index] !== b[index]) return a[index] < b[index] ? -1 : 1;
  }
  return 0;
}

/** `sort`: `{column, isDown}`; without a column, those in trouble come first. */
function sortedPartitions(partitions, sort) {
  const name = PARTITION_COLUMNS[0].of;
  const of = PARTITION_COLUMNS.find(({ id }) => id === sort.column)?.of ?? trouble;
  const sign = !sort.column || sort.isDown ? -1 : 1;
  return [...partitions].sort((a, b) => sign * compared(of(a), of(b)) || compared(name(a), name(b)));
}

function partitionsView({ partitions }, { sort, filter, showsAll }, { sortBy, showAll }) {
  if (partitions.length === 0) return nothing('No partition is assigned to this process.');
  const wanted = filter.trim().toLowerCase();
  const matching = partitions.filter(({ topic, partition, state }) =>
    `${topic} [${partition}] ${state}`.toLowerCase().includes(wanted),
  );
  const rows = sortedPartitions(matching, sort).slice(0, showsAll ? undefined : ROWS);
  const order = sort.column ? '' : ', those in trouble first';
  const said = `${rows.length} of ${count(partitions.length, 'partition')}${order}`;
  return [
    table(
      said,
      PARTITION_COLUMNS.map((column) => sortHead(column, sort, sortBy)),
      rows.map(partitionRow),
      { class: 'scroll partitions' },
    ),
    matching.length > ROWS &&
      h(
        'button',
        { type: 'button', on: { click: showAll } },
        showsAll ? `Show ${ROWS} only` : `Show all ${grouped(matching.length)}`,
      ),
  ];
}

function sortHead({ id, title, isNumber }, sort, sortBy) {
  const isBy = sort.column === id;
  return h(
    'th',
    {
      scope: 'col',
      class: isNumber ? 'number' : null,
      'aria-sort': isBy ? (sort.isDown ? 'descending' : 'ascending') : null,
    },
    h(
      'button',
      { type: 'button', class: 'sort', on: { click: () => sortBy(id) } },
      title,
      h('i', { 'aria-hidden': 'true' }, isBy ? (sort.isDown ? '▼' : '▲') : ''),
    ),
  );
}

/** By numbers the largest first, by words the first; then the other way around, then as it was. */
function nextSort(sort, column) {
  const first = PARTITION_COLUMNS.find(({ id }) => id === column);
  const isDownFirst = Boolean(first.isNumber) || column === 'frontier';
  if (sort.column !== column) return { column, isDown: isDownFirst };
  return sort.isDown === isDownFirst ? { column, isDown: !isDownFirst } : { column: null, isDown: false };
}

function partitionRow(one) {
  const [rank] = trouble(one);
  const level = ['', 'warn', 'bad', 'bad'][rank];
  // Without something to compare it with, an offset is said itself.
  const relative = (offset) => (one.durable === null ? grouped(offset) : signed(offset - one.durable));
  const aheadOf = (offset) => known(offset, () => h('span', { title: grouped(offset) }, relative(offset)));
  const oldest = shownFrontier(one);
  const isBehindParked = one.frontier?.place === 'parked' && oldest !== one.frontier;
  return h(
    'tr',
    { key: `${one.topic}/${one.partition}`, class: level },
    h('th', { scope: 'row' }, visible(one.topic), h('span', { class: 'whole' }, `${THIN}[${one.partition}]`)),
    cell(badge(one.state === 'stopped' ? 'bad' : 'plain', one.state), one.paused && small('not fetched now')),
    numberCell(duration(one.unparked_lag_ms)),
    numberCell(known(one.message_lag, short)),
    numberCell(short(one.in_flight_records), small(bytes(one.in_flight_bytes))),
    numberCell(known(one.durable, grouped)),
    numberCell(aheadOf(one.committed)),
    numberCell(aheadOf(one.fetched)),
    numberCell(aheadOf(one.end)),
    h(
      'td',
      { class: 'frontier' },
      oldest ? frontierView(oldest) : NOTHING,
      isBehindParked && frontierView(one.frontier),
    ),
  );
}

/** +34, −12, and 0 for the same. */
const signed = (number) => (number === 0 ? '0' : `${number > 0 ? '+' : '−'}${grouped(Math.abs(number))}`);

function frontierView({ offset, key, age_ms, place, shard, lane, worker, attempt, last, blocked_by }) {
  const where = [
    place,
    shard === null ? null : `shard ${shard}`,
    lane === null ? null : `lane ${lane}`,
    worker,
    attempt === null ? null : `attempt ${attempt}`,
  ].filter(Boolean);
  return [
    key !== null && h('code', { class: 'key' }, keyName(key)),
    small(h('span', null, `offset ${grouped(offset)}, ${duration(age_ms)} old`), '; ', where.map(visible).join(', ')),
    blocked_by.length > 0 &&
      h('small', { class: 'bad' }, `blocked by ${listed(blocked_by.map((pid) => `pid ${pid}`))}`),
    last && h('small', { class: 'bad' }, reasonText(last)),
  ];
}

const STAGES = new Map([['durable', 'whole way']]);
const OUTCOMES = [
  ['upserted', 'Upserted'],
  ['deleted', 'Deleted'],
  ['folded', 'Folded'],
  ['skipped', 'Skipped'],
  ['parked', 'Parked'],
  ['dead_lettered', 'Dead letters'],
];
const TOPIC_LEVELS = new Map([
  ['running', 'ok'],
  ['paused', 'warn'],
  ['stopped', 'bad'],
]);

/** Of a topic, without what is parked. */
const topicLag = (topic, partitions) =>
  partitions.reduce((most, one) => (one.topic === topic ? Math.max(most, one.unparked_lag_ms) : most), 0);

function topicsView({ topics, partitions }, actions) {
  return topics.map((topic) => {
    const level = TOPIC_LEVELS.get(topic.state) ?? 'plain';
    const outcomes = OUTCOMES.map(([name, title]) => [title, short(topic.records[name])]);
    return h(
      'article',
      { class: `card ${level}`, key: topic.name, 'aria-label': `Topic ${topic.name}` },
      h(
        'header',
        null,
        h('h3', null, visible(topic.name)),
        badge(level, topic.state),
        small('to ', topic.table === null ? 'a handler' : code(visible(topic.table))),
        topicButton(topic, actions),
      ),
      topic.reason && h('p', { class: 'reason' }, reasonText(topic.reason)),
      factsView([
        ['Time lag', duration(topicLag(topic.name, partitions))],
        ['Message lag', known(topic.message_lag, short)],
        ...outcomes,
      ]),
      topic.stages.length > 0 &&
        table(
          'How long records took',
          ['Stage', '#Records', '#Median', '#99 %', '#Longest'],
          topic.stages.map((stage) => {
            return h(
              'tr',
              { key: stage.stage, class: stage.stage === 'durable' ? 'sum' : null },
              h('th', { scope: 'row' }, STAGES.get(stage.stage) ?? stage.stage),
              numberCell(short(stage.count)),
              numberCell(duration(stage.p50_ms)),
              numberCell(duration(stage.p99_ms)),
              numberCell(duration(stage.max_ms)),
            );
          }),
        ),
    );
  });
}

/** What has stopped goes on by no button: a person has to mend something. */
function topicButton({ name, state }, { isDoing, resume, pause }) {
  if (state === 'stopped') return null;
  if (state === 'paused')
    return actionButton('Resume', `Resume topic ${name}`, isDoing(topicId(name)), () => resume(name));
  return actionButton('Pause', `Pause topic ${name}`, isDoing(topicId(name)), () => pause(name));
}

function topKeysView({ top_keys }, actions) {
  const shown = top_keys.filter(({ by_count, by_time }) => by_count.length + by_time.length > 0);
  if (shown.length === 0) return nothing('No key stands out.');
  return shown.map(({ shard, topic, by_count, by_time }) => {
    return h(
      'article',
      { class: 'card', key: `${shard}/${topic}`, 'aria-label': `Keys of ${topic} in shard ${shard}` },
      h('header', null, h('h3', null, visible(topic)), small(`in shard ${shard}`)),
      h(
        'div',
        { class: 'pair' },
        keysTable('By number of records', topic, by_count, actions),
        keysTable('By time', topic, by_time, actions),
      ),
    );
  });
}

function keysTable(label, topic, keys, { isDoing, park }) {
  if (keys.length === 0) return nothing(`${label}: none stands out.`);
  return table(
    label,
    ['Key', 'Share', h('th', { scope: 'col' }, h('span', { class: 'unseen' }, 'Action'))],
    keys.map(({ partition, key, hash, share }) => {
      const name = key === null ? `hash ${hash}` : keyName(key);
      return h(
        'tr',
        { key: `${partition}/${hash}` },
        h(
          'th',
          { scope: 'row' },
          h('code', { class: 'key', title: `xxh3 ${hash}` }, name),
          small(`partition ${partition}`),
        ),
        cell(meter(share)),
        cell(
          isNameable(key) &&
            actionButton('Park', `Park key ${name} of ${topic}`, isDoing(holdId(topic, 'key', key)), () =>
              park(topic, 'key', key),
            ),
        ),
      );
    }),
  );
}

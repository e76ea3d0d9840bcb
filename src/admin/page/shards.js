// Of each database: its state, what its writes wait for, who is in their way, and what its workers do.
'use strict';

function shardsView(status) {
  return status.shards.map((shard) => shardView(shard, shardLevel(status, shard), status.process.now_ms));
}

function shardView(shard, level, now) {
  const { contention } = shard;
  return h(
    'article',
    {
      class: `card ${level}`,
      key: shard.name,
      id: shardAnchor(shard.name),
      tabindex: '-1',
      'aria-label': `Shard ${shard.name}`,
    },
    h(
      'header',
      null,
      h('h3', null, `Shard ${shard.name}`),
      badge(shard.state === 'up' ? 'ok' : level, shard.state),
      small(`for ${duration(shard.since_ms)}`),
      shard.state === 'up' && badge(level === 'ok' ? 'plain' : level, shardWord(shard)),
    ),
    h('p', { class: 'verdict' }, visible(shard.verdict.text)),
    shard.reason && h('p', { class: 'reason' }, reasonText(shard.reason)),
    contention && blockersView(contention.blockers),
    contention && waitsView(contention.waits),
    factsView(shardFacts(shard)),
    workersView(shard.workers),
    contention && healthView(contention.tables, now),
    contention
      ? contention.notes.length > 0 &&
          h(
            'ul',
            { class: 'notes' },
            contention.notes.map((note) => h('li', null, visible(note))),
          )
      : h(
          'p',
          { class: 'notes' },
          'Its sessions have not been sampled: wait events, blockers and tables are not known.',
        ),
  );
}

function shardFacts({ connections, pace, parked_keys, parked_records, contention }) {
  const { needed, open, server_max, server_used } = connections;
  const wal = contention?.wal;
  const timed = `${known(wal?.checkpoints_timed, grouped)} timed`;
  const checkpoints = `${timed}, ${known(wal?.checkpoints_requested, grouped)} because the log was full`;
  const server = `server ${known(server_used, grouped)} of ${known(server_max, grouped)}`;
  return [
    ['Connections', `${known(open, grouped)} of ${grouped(needed)}; ${server}`],
    ['WAL', known(wal?.bytes_per_s, (rate) => `${bytes(rate)}/s`)],
    ['Checkpoints', wal ? checkpoints : NOTHING],
    ['Pace', pace.active.length > 0 ? pace.active.map(visible).join('; ') : 'not held back'],
    ['Replica lag', known(pace.replica_lag_ms, duration)],
    ['Parked', `${count(parked_keys, 'key')}, ${count(parked_records, 'record')}`],
  ];
}

/** Those that have a colour of their own. */
const WAIT_KINDS = ['CPU', 'Lock', 'LWLock', 'IO', 'IPC', 'Client', 'Timeout'];
const waitClass = (kind) => `wait ${WAIT_KINDS.includes(kind) ? `wait-${kind}` : 'wait-other'}`;
const waitName = ({ kind, event }) => (kind === 'CPU' || !event ? kind : `${kind}: ${event}`);

function waitsView(waits) {
  if (waits.length === 0) return nothing('No backend of ours was seen at work.');
  const said = waits.map((wait) => `${waitName(wait)} ${percent(wait.share)}`).join(', ');
  return h(
    'div',
    { class: 'waits' },
    h(
      'div',
      { class: 'bar', role: 'img', 'aria-label': `What our backends did: ${said}` },
      waits.map((wait) =>
        h('span', {
          key: waitName(wait),
          class: waitClass(wait.kind),
          title: `${waitName(wait)} ${percent(wait.share)}`,
          style: { 'flex-grow': String(wait.share) },
        }),
      ),
    ),
    h(
      'ul',
      { class: 'legend' },
      waits.map((wait) =>
        h(
          'li',
          { key: waitName(wait) },
          h('i', { class: waitClass(wait.kind) }),
          waitName(wait),
          ' ',
          h('b', null, percent(wait.share)),
        ),
      ),
    ),
  );
}

function blockersView(blockers) {
  if (blockers.length === 0) return null;
  return table(
    'Who blocks us now',
    ['Session', 'State', '#Transaction', '#Blocks us for', 'Lock', 'Waiting'],
    blockers.map((blocker) => {
      const {
        pid,
        application,
        user,
        ours,
        state,
        command,
        transaction_age_ms,
        query_age_ms,
        blocked_for_ms,
        lock,
        relation,
        blocks,
      } = blocker;
      return h(
        'tr',
        { key: pid },
        h(
          'th',
          { scope: 'row', class: 'whole' },
          `pid ${pid}`,
          small(ours ? 'one of ours' : visible([application, user].filter(Boolean).join(', ') || 'not to be seen')),
        ),
        cell(
          known(state, visible),
          command && small(code(visible(command)), query_age_ms === null ? null : ` ${duration(query_age_ms)} ago`),
        ),
        numberCell(known(transaction_age_ms, duration)),
        numberCell(duration(blocked_for_ms)),
        cell(known(lock, visible), relation && small(code(visible(relation)))),
        cell(blocks.map((name) => [h('span', { class: 'whole' }, name), ' '])),
      );
    }),
    { class: 'scroll blockers' },
  );
}

function healthView(tables, now) {
  if (tables.length === 0) return null;
  return table(
    'Tables',
    ['Table', '#HOT updates', '#Live rows', '#Dead rows', '#Last vacuum'],
    tables.map((one) => {
      const isBloated = one.dead_rows > 10_000 && one.dead_rows > one.live_rows / 5;
      return h(
        'tr',
        { key: one.table },
        h('th', { scope: 'row' }, visible(one.table)),
        numberCell(known(one.hot_ratio, percent)),
        numberCell(short(one.live_rows)),
        h('td', { class: isBloated ? 'number warn' : 'number' }, short(one.dead_rows)),
        numberCell(known(one.last_vacuum_at_ms, (at) => `${duration(now - at)} ago`)),
      );
    }),
  );
}

const WORKER_LEVELS = new Map([
  ['retrying', 'bad'],
  ['barred', 'bad'],
  ['paced', 'warn'],
]);

function workersView(workers) {
  if (workers.length === 0) return null;
  return table(
    'Workers',
    ['Worker', 'State', 'Busy', '#Queued', 'Batch', 'Last failure'],
    workers.map((worker) => {
      const { name, state, busy, queued_records, topic, records, since_ms, attempt, last } = worker;
      return h(
        'tr',
        { key: name },
        h('th', { scope: 'row', class: 'whole' }, name, name.startsWith('fb-s') && small('slow lane')),
        cell(badge(WORKER_LEVELS.get(state) ?? 'plain', state)),
        cell(meter(busy)),
        numberCell(short(queued_records)),
        h(
          'td',
          { class: 'whole' },
          topic ? [visible(topic), ', ', count(records, 'record')] : NOTHING,
          topic &&
            small(
              [since_ms === null ? null : `since ${duration(since_ms)}`, attempt > 1 ? `attempt ${attempt}` : null]
                .filter(Boolean)
                .join(', '),
            ),
        ),
        h('td', { class: 'wide' }, last ? [last.sqlstate && code(last.sqlstate), ' ', visible(last.text)] : NOTHING),
      );
    }),
  );
}

/** A share, as a bar and as a number. */
const meter = (share) =>
  h(
    'span',
    { class: 'meter' },
    h('i', { 'aria-hidden': 'true' }, h('i', { style: { width: `${Math.min(100, share * 100).toFixed(0)}%` } })),
    h('span', null, percent(share)),
  );

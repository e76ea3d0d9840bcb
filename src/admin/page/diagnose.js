// What an operator has to know first: whether writes are late, and whether Kafka, forebay or which database is the
// reason. Everything here follows from one answer of /status and from nothing else.
'use strict';

/** Kafka's commit comes each second by default: what is younger is the usual beat. */
const BEHIND_MS = 5000;
const FAR_BEHIND_MS = 60_000;
/** The poller turns every 100 ms at least. */
const HANGS_MS = 2000;
/** A lock that was waited for longer is worth a sentence. */
const LOCKED_MS = 1000;

const LEVELS = ['bad', 'warn', 'note', 'ok'];

/** `{level, brief, text, more}`: the worst finding, in few words and in a sentence, and the others, the worst first. */
function diagnose(status) {
  const findings = [hanging, stopped, away, locked, late, heldBack, noted].flatMap((look) => look(status));
  if (!findings.some(({ level }) => level === 'bad') && !status.ready.ready) findings.unshift(unready(status));
  findings.sort((a, b) => LEVELS.indexOf(a.level) - LEVELS.indexOf(b.level));
  // What only adds to it does not hide that all is well.
  const isWell = findings.every(({ level }) => level === 'note');
  const [first, ...more] = isWell ? [wellEnough(status), ...findings] : findings;
  return { ...first, more };
}

const finding = (level, brief, text, at) => ({ level, brief, text, at });

/** Of the sections of the page, where more is said. */
const shardAnchor = (name) => `shard-${name}`;

function unready({ ready }) {
  return finding('bad', 'not ready', `Not ready: ${ready.reasons.join('; ') || 'no reason was given'}.`);
}

function wellEnough({ totals, partitions }) {
  if (partitions.length === 0) {
    return finding('ok', 'no partitions', 'No partition is assigned to this process: nothing to do.');
  }
  if (totals.message_lag === null) {
    return finding('ok', 'starting', 'The ends of Kafka’s logs are not known yet.');
  }
  return finding('ok', 'caught up', 'Caught up.');
}

function hanging({ process }) {
  if (process.poll_age_ms < HANGS_MS) return [];
  const age = duration(process.poll_age_ms);
  return [finding('bad', 'forebay hangs', `forebay itself hangs: its poller has not turned for ${age}.`, 'process')];
}

function stopped({ topics, partitions }) {
  const names = new Set();
  const found = topics
    .filter(({ state }) => state === 'stopped')
    .map((topic) => {
      names.add(topic.name);
      const why = topic.reason ? `: ${reasonText(topic.reason)}` : '';
      return finding(
        'bad',
        `${topic.name} stopped`,
        `Topic ${topic.name} has stopped and needs a person${why}.`,
        'topics',
      );
    });
  const others = partitions.filter(({ state, topic }) => state === 'stopped' && !names.has(topic));
  if (others.length > 0) {
    const which = listed(others.slice(0, 3).map(partitionName));
    found.push(
      finding('bad', 'partitions stopped', `${count(others.length, 'partition')} stopped: ${which}.`, 'partitions'),
    );
  }
  return found;
}

function away({ shards }) {
  return shards
    .filter(({ state }) => state !== 'up')
    .flatMap(({ name, state, since_ms, reason }) => {
      const [since, why] = [duration(since_ms), reason ? `: ${reasonText(reason)}` : ''];
      const at = shardAnchor(name);
      if (state === 'down')
        return finding('bad', `shard ${name} down`, `Shard ${name} has been down for ${since}${why}.`, at);
      if (state === 'refused') {
        return finding(
          'bad',
          `shard ${name} refused`,
          `Shard ${name} has refused us for ${since} and needs a person${why}.`,
          at,
        );
      }
      if (since_ms < BEHIND_MS) return [];
      return finding('warn', `shard ${name} ${state}`, `Shard ${name} has not been reached for ${since}${why}.`, at);
    });
}

function locked({ shards, totals }) {
  const level = totals.time_lag_ms >= BEHIND_MS ? 'bad' : 'warn';
  return shards.flatMap(({ name, verdict, contention }) => {
    const isBound = verdict.kind === 'lock_bound';
    const blocker = contention?.blockers.find(({ blocked_for_ms }) => isBound || blocked_for_ms >= LOCKED_MS);
    if (!blocker) {
      return isBound
        ? finding(
            level,
            `shard ${name} lock-bound`,
            `Shard ${name} is lock-bound: ${visible(verdict.text)}`,
            shardAnchor(name),
          )
        : [];
    }
    const others = contention.blockers.length - 1;
    const more = others > 0 ? `, and ${count(others, 'more session')} block${others === 1 ? 's' : ''} others` : '';
    const text = `${isBound ? 'is lock-bound' : 'has a lock in the way'}: ${blockerText(blocker)}${more}.`;
    return finding(level, `shard ${name} locked`, `Shard ${name} ${text}`, shardAnchor(name));
  });
}

/** "pid 4711 (psql, idle in transaction for 34 s) holds up fb-w1.0". */
function blockerText({ pid, application, ours, state, transaction_age_ms, blocks }) {
  const age = state && transaction_age_ms !== null ? `${state} for ${duration(transaction_age_ms)}` : state;
  const who = [ours ? 'one of ours' : application, age].filter(Boolean).map(visible).join(', ');
  const whom = blocks.length > 3 ? `${listed(blocks.slice(0, 2))} and ${blocks.length - 2} more` : listed(blocks);
  return `pid ${pid}${who ? ` (${who})` : ''} holds up ${whom || 'our writes'}`;
}

function late(status) {
  const { time_lag_ms, message_lag } = status.totals;
  if (time_lag_ms < BEHIND_MS) return [];
  const age = duration(time_lag_ms);
  const by = message_lag === null ? age : `${count(message_lag, 'record')}, ${age}`;
  const causes = [kafkaClause(status), ...takeoverClause(status), ...databaseClauses(status)];
  const level = time_lag_ms >= FAR_BEHIND_MS ? 'bad' : 'warn';
  return [finding(level, `${age} behind`, `Behind by ${by}: ${causes.join(', ')}.`, 'partitions')];
}

function kafkaClause({ totals, partitions, topics }) {
  const paused = topics.filter(({ state }) => state === 'paused').map(({ name }) => name);
  if (paused.length > 0 && paused.length === topics.length) return 'every topic is paused';
  if (totals.fetched_per_s >= 1) return 'Kafka delivers';
  const isFetched = ({ fetched, end }) => end !== null && fetched >= end;
  if (partitions.length > 0 && partitions.every(isFetched)) return 'all that Kafka has is fetched';
  if (partitions.some((partition) => partition.paused && partition.in_flight_records > 0))
    return 'what may be in flight is in flight';
  return 'Kafka delivers nothing';
}

function takeoverClause({ partitions }) {
  const moving = partitions.filter(({ state }) => state === 'locating' || state === 'verifying').length;
  return moving > 0 ? [`${moving} of ${count(partitions.length, 'partition')} are being taken over`] : [];
}

const BINDING = new Map([
  ['waiting_for_us', (names, are) => `${names} wait${are === 'is' ? 's' : ''} for us`],
  ['commit_bound', (names, are) => `${names} ${are} commit-bound`],
  ['lock_bound', (names, are) => `${names} ${are} lock-bound`],
  ['cpu_bound', (names, are) => `${names} ${are} CPU-bound`],
  ['io_bound', (names, are) => `${names} ${are} I/O-bound`],
  ['paced', (names, are) => `${names} ${are} held back on purpose`],
  ['down', (names, are) => `${names} ${are} down`],
]);

function databaseClauses({ shards }) {
  const clauses = [];
  for (const [kind, clause] of BINDING) {
    const names = shards.filter(({ verdict }) => verdict.kind === kind).map(({ name }) => name);
    if (names.length === 0) continue;
    const many = names.length > 4 ? `${names.length} shards` : `shard${names.length > 1 ? 's' : ''} ${listed(names)}`;
    clauses.push(clause(many, names.length > 1 ? 'are' : 'is'));
  }
  if (clauses.length === 0 && shards.length > 0) {
    clauses.push(
      shards.every(({ verdict }) => verdict.kind === 'idle')
        ? 'the databases are idle'
        : 'what the databases wait for is not known yet',
    );
  }
  return clauses;
}

/** What somebody, or a setting, holds back. */
function heldBack({ topics, shards }) {
  const paused = topics
    .filter(({ state }) => state === 'paused')
    .map(({ name }) => {
      return finding('warn', `${name} paused`, `Topic ${name} is paused: nothing of it is fetched.`, 'topics');
    });
  const paced = shards
    .filter(({ pace }) => pace.active.length > 0)
    .map(({ name, pace }) => {
      return finding(
        'note',
        `shard ${name} paced`,
        `Shard ${name} is held back on purpose: ${pace.active.join('; ')}.`,
        shardAnchor(name),
      );
    });
  return [...paused, ...paced];
}

function noted({ process, totals }) {
  const found = [];
  if (process.leaving) found.push(finding('warn', 'draining', 'Draining: this process was told to end.', 'process'));
  if (totals.parked_keys > 0) {
    const parked = `${count(totals.parked_keys, 'key')} parked, with ${count(totals.parked_records, 'record')}`;
    found.push(finding('note', 'keys parked', `${parked}: they wait in the database, in order.`, 'parked'));
  }
  if (totals.dead_letters > 0) {
    found.push(
      finding('note', 'dead letters', `${count(totals.dead_letters, 'dead letter')} since the start.`, 'letters'),
    );
  }
  return found;
}

/** The way of a write, from left to right: `{name, level, text, at}` for Kafka, for forebay, and for each shard. */
function stations(status) {
  const { process, totals, shards } = status;
  const isLate = totals.time_lag_ms >= BEHIND_MS;
  const clause = kafkaClause(status);
  const kafka = {
    name: 'Kafka',
    level: isLate && clause === 'Kafka delivers nothing' ? 'bad' : 'ok',
    at: 'partitions',
  };
  const hangs = process.poll_age_ms >= HANGS_MS;
  const waited = isLate && shards.some(({ verdict }) => verdict.kind === 'waiting_for_us');
  const own = { name: 'forebay', level: hangs ? 'bad' : waited ? 'warn' : 'ok', at: 'process' };
  return [
    {
      ...kafka,
      text:
        totals.fetched_per_s > 0
          ? `delivers ${perSecond(totals.fetched_per_s)}`
          : isLate
            ? clause.replace('Kafka ', '')
            : 'quiet',
    },
    { ...own, text: hangs ? 'hangs' : `${count(totals.in_flight_records, 'record')} in flight` },
    ...shards.map((shard) => ({
      name: `shard ${shard.name}`,
      level: shardLevel(shard, isLate),
      text: shardWord(shard),
      at: shardAnchor(shard.name),
    })),
  ];
}

const shardWord = ({ state, verdict }) =>
  state === 'up' ? verdict.kind.replace('_bound', '-bound').replaceAll('_', ' ') : state;

function shardLevel({ state, verdict }, isLate) {
  if (state === 'down' || state === 'refused') return 'bad';
  if (state !== 'up') return 'warn';
  if (verdict.kind === 'lock_bound') return isLate ? 'bad' : 'warn';
  const isBound = !['idle', 'waiting_for_us', 'unknown'].includes(verdict.kind);
  return isLate && isBound ? 'warn' : 'ok';
}

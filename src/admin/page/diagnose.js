// What the status says is wrong, and where on the page more is said of it. Nothing is decided here: the findings are the
// process' own, and so is the limit.
'use strict';

/** From this age on a write is late; src/admin/page.rs fills in what src/admin/diagnosis.rs decides. */
const LATE_MS = __LATE_MS__;

/** By severity, how it looks; what is not known looks like a note. */
const LEVELS = new Map([
  ['bad', 'bad'],
  ['warn', 'warn'],
  ['calm', 'ok'],
]);
const levelOf = ({ severity }) => LEVELS.get(severity) ?? 'note';

/** Of the sections of the page, where more is said. */
const shardAnchor = (name) => `shard-${name}`;

const ANCHORS = new Map([
  ['forebay', () => 'process'],
  ['kafka', () => 'partitions'],
  ['topic', () => 'topics'],
  ['database', shardAnchor],
]);
const anchorOf = ({ culprit, name }) => ANCHORS.get(culprit)?.(name) ?? null;

/** The worst that is said of somebody: of a database by its name. */
function levelOfCulprit({ findings }, culprit, name = null) {
  const levels = findings.filter((one) => one.culprit === culprit && one.name === name).map(levelOf);
  return ['bad', 'warn'].find((level) => levels.includes(level)) ?? 'ok';
}

/** The level of numbers that are late: as bad as the worst that is said of the whole. */
function lateLevel({ findings, totals }) {
  if (totals.unparked_lag_ms < LATE_MS) return null;
  const level = levelOf(findings[0]);
  return level === 'bad' || level === 'warn' ? level : null;
}

/** The first words of the first finding, for a tab's title: what comes before its reasons. */
const brief = ({ findings }) => visible(findings[0].text.split(/[:;,(]/)[0].replace(/[.\s]+$/, ''));

/** What a partition's lag without the parked records is about, or null. */
const oldestUnparked = ({ frontier, unparked }) => (frontier?.place === 'parked' ? unparked : frontier);

/** The way of a write, from left to right: `{name, level, text, at}` for Kafka, for forebay, and for each shard. */
function stations(status) {
  const { totals, shards } = status;
  const delivers = totals.fetched_per_s > 0 ? `delivers ${perSecond(totals.fetched_per_s)}` : 'quiet';
  return [
    { name: 'Kafka', level: levelOfCulprit(status, 'kafka'), text: delivers, at: 'partitions' },
    {
      name: 'forebay',
      level: levelOfCulprit(status, 'forebay'),
      text: `${count(totals.in_flight_records, 'record')} in flight`,
      at: 'process',
    },
    ...shards.map((shard) => ({
      name: `shard ${shard.name}`,
      level: shardLevel(status, shard),
      text: shardWord(shard),
      at: shardAnchor(shard.name),
    })),
  ];
}

const shardWord = ({ state, verdict }) =>
  state === 'up' ? verdict.kind.replace('_bound', '-bound').replaceAll('_', ' ') : state;

const shardLevel = (status, { name }) => levelOfCulprit(status, 'database', name);

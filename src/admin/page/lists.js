// What waits for a person, as the databases list it: parked keys and holds, and dead letters.
'use strict';

/** `answer`: null before there is one, else `{entries, left_out, failed}` or `{problem}`. */
function listView(answer, view, empty) {
  if (!answer) return nothing('Asking the databases …');
  if (answer.problem) return h('p', { class: 'reason' }, answer.problem);
  const failed = answer.failed.map(({ shard, reason }) => {
    return h(
      'p',
      { class: 'reason', key: `failed ${shard}` },
      `Shard ${shard} does not answer: ${typeof reason === 'string' ? visible(reason) : reasonText(reason)}`,
    );
  });
  const more = answer.left_out > 0 && h('p', { class: 'sum', key: 'more' }, `And ${grouped(answer.left_out)} more.`);
  return [failed, answer.entries.length > 0 ? view(answer.entries) : failed.length === 0 && nothing(empty), more];
}

const ACTION = () => h('th', { scope: 'col' }, h('span', { class: 'unseen' }, 'Action'));

function parkedView(entries, actions) {
  const of = (kind) => entries.filter((entry) => entry.kind === kind);
  const [holds, keys, totals] = [of('hold'), of('key'), of('total')];
  return [
    holds.length > 0 &&
      table(
        'Holds: their records are parked until somebody ends the hold',
        ['Held', 'Topic', 'Shard', 'Since', ACTION()],
        holds.map((hold) => holdRow(hold, actions)),
      ),
    keys.length > 0 &&
      table(
        'Parked keys: their records wait in the database, in order',
        ['Key', 'Topic', 'Why', '#Records', '#Waits for', 'Last failure', ACTION()],
        keys.map((key) => parkedRow(key, actions)),
      ),
    totals.map(({ shard, holds: held, keys: parked, records }) =>
      h(
        'p',
        { class: 'sum', key: `total ${shard}` },
        `Shard ${shard}: ${count(held, 'hold')}, ${count(records, 'record')} of ${count(parked, 'key')} parked.`,
      ),
    ),
  ];
}

function holdRow({ shard, topic, scope, value, since }, { isDoing, unpark }) {
  const name = keyName(value);
  const id = holdId(topic, scope, value);
  return h(
    'tr',
    { key: `hold ${shard} ${id}` },
    h('th', { scope: 'row' }, h('code', { class: 'key' }, name), small(scope)),
    cell(visible(topic)),
    cell(shard),
    h('td', { class: 'whole' }, since),
    cell(
      isNameable(value) &&
        actionButton('Unpark', `Unpark ${scope} ${name} of ${topic}`, isDoing(id), () => unpark(topic, scope, value)),
    ),
  );
}

const WHY = new Map([
  ['blocked', 'its row was locked by somebody else'],
  ['record', 'one of its records is at fault or waits for another'],
  ['held', 'a person holds it'],
  ['hot', 'it takes more than its share'],
  ['pace', 'its tenant is over its ceiling'],
]);

function parkedRow(one, { isDoing, unpark }) {
  const { shard, topic, partition, key, records, offset, age_s, reason, held, dead_letter, attempts, sqlstate, error } =
    one;
  const name = keyName(key);
  const state = dead_letter ? badge('bad', 'dead letter') : held ? badge('warn', 'held') : badge('plain', 'waiting');
  return h(
    'tr',
    { key: `key ${shard} ${topic} ${partition} ${offset}` },
    h('th', { scope: 'row' }, h('code', { class: 'key' }, name), small(`from offset ${grouped(offset)}`)),
    cell(visible(topic), `${THIN}[${partition}]`, small(`shard ${shard}`)),
    cell(state, small(WHY.get(reason) ?? reason)),
    numberCell(short(records)),
    numberCell(duration(age_s * 1000)),
    h(
      'td',
      { class: 'wide' },
      attempts > 0 && small(`tried ${count(attempts, 'time')}`),
      error || sqlstate ? reasonText({ sqlstate, text: error ?? '' }) : NOTHING,
    ),
    cell(
      isNameable(key) &&
        actionButton('Unpark', `Unpark key ${name} of ${topic}`, isDoing(holdId(topic, 'key', key)), () =>
          unpark(topic, 'key', key),
        ),
    ),
  );
}

function lettersView(entries, actions) {
  return table(
    'Dead letters: records that could not be applied',
    ['Record', 'Key', 'Why', 'When', ACTION()],
    entries.map((letter) => letterRow(letter, actions)),
  );
}

function letterRow(letter, { isDoing, replay, discard }) {
  const { shard, key, sqlstate, error, at, blocks_key, resolution, forwarded_at, forward_error } = letter;
  const id = letterId(letter);
  const name = letterName(letter);
  return h(
    'tr',
    { key: id },
    h(
      'th',
      { scope: 'row' },
      visible(letter.topic),
      `${THIN}[${letter.partition}]`,
      small(`offset ${grouped(letter.offset)}`),
      small(`shard ${shard}${letter.id === null ? '' : `, letter ${letter.id}`}`),
    ),
    cell(h('code', { class: 'key' }, keyName(key)), blocks_key && small(badge('bad', 'blocks its key'))),
    h(
      'td',
      { class: 'wide' },
      reasonText({ sqlstate, text: error }),
      forwarded_at && small(`forwarded ${forwarded_at}`),
      forward_error && h('small', { class: 'bad' }, `not forwarded: ${visible(forward_error)}`),
    ),
    h('td', { class: 'whole' }, at),
    cell(
      resolution
        ? resolution
        : h(
            'span',
            { class: 'buttons' },
            actionButton('Replay', `Replay ${name}`, isDoing(id), () => replay(letter)),
            actionButton('Discard', `Discard ${name}`, isDoing(id), () => discard(letter), true),
          ),
    ),
  );
}

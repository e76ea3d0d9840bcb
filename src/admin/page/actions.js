// What the buttons do: the request, and the question before it. What only goes on again is done without one.
'use strict';

const actions = {
  isDoing: (id) => page.doing.has(id),

  pause: (topic) =>
    act({
      ...ofTopic('Pausing', topic),
      path: 'pause',
      question: {
        verb: 'Pause',
        title: `Pause topic ${topic}?`,
        lines: [
          'This process fetches nothing of it until it is resumed or the process restarts. Its lag grows meanwhile.',
        ],
      },
    }),

  resume: (topic) => act({ ...ofTopic('Resuming', topic), path: 'resume' }),

  park: (topic, scope, value) =>
    act({
      ...ofHold('Parking', topic, scope, value),
      path: 'park',
      question: {
        verb: 'Park',
        title: `Park ${scope} ${keyName(value)}?`,
        lines: [
          `Its records of topic ${topic} wait in the database, in order, until somebody unparks it. All others go on.`,
        ],
      },
    }),

  unpark: (topic, scope, value) => act({ ...ofHold('Unparking', topic, scope, value), path: 'unpark' }),

  replay: (letter) =>
    act({
      ...ofLetter('Replaying', letter),
      path: 'dead-letters/replay',
      option: 'out_of_order',
      question: {
        verb: 'Replay',
        title: `Replay ${letterName(letter)}?`,
        lines: [
          letter.blocks_key
            ? 'It is the next of its key: a slow lane applies it in its turn.'
            : 'Its key has gone on without it.',
        ],
        option: letter.blocks_key
          ? null
          : 'Out of order: apply this older record over newer ones. Not needed where the table has a guard column.',
      },
    }),

  discard: (letter) =>
    act({
      ...ofLetter('Discarding', letter),
      path: 'dead-letters/discard',
      question: {
        verb: 'Discard',
        title: `Discard ${letterName(letter)}?`,
        isGrave: true,
        lines: [
          'It will not be applied. It stays in the table of dead letters, marked as decided.',
          letter.blocks_key && 'Its key goes on without it.',
        ],
      },
    }),

  setLogLevel: (level) =>
    act({ id: 'log level', what: `Setting the log level to ${level}`, path: 'log-level', body: { level } }),
};

const topicId = (topic) => `topic ${topic}`;
const holdId = (topic, scope, value) => `${scope} ${topic} ${keyName(value)}`;
const letterId = ({ shard, topic, partition, offset }) => `letter ${shard} ${topic} ${partition} ${offset}`;
const letterName = ({ topic, partition, offset }) => `${topic} [${partition}] offset ${grouped(offset)}`;

const ofTopic = (doing, topic) => ({ id: topicId(topic), what: `${doing} topic ${topic}`, body: { topic } });

function ofHold(doing, topic, scope, value) {
  return {
    id: holdId(topic, scope, value),
    what: `${doing} ${scope} ${keyName(value)} of ${topic}`,
    body: { topic, [scope]: value },
  };
}

function ofLetter(doing, letter) {
  const { shard, topic, partition, offset } = letter;
  return {
    id: letterId(letter),
    what: `${doing} ${letterName(letter)}`,
    body: { shard, topic, partition, offset, out_of_order: false },
  };
}

/**
 * Asks where there is a question, sends a POST, and shows what comes of it. `id` says to what it is done, of which only
 * one thing is under way at a time; `what` is for people; `option` names the field that the tick in the question sets.
 */
async function act({ id, what, path, body, question, option }) {
  const consent = question ? await confirmed(question) : {};
  if (!consent || page.doing.has(id)) return;
  page.doing.add(id);
  showAll();
  try {
    const answer = await request('POST', path, option ? { ...body, [option]: consent.isTicked } : body);
    notice(false, visible(String(answer.done)));
  } catch (error) {
    notice(true, `${what} failed: ${visible(error.message)}`);
  }
  page.doing.delete(id);
  showAll();
  askOpenLists();
}

// --- Answers ---------------------------------------------------------------------------------------------------------

const NOTICE_MS = 12_000;
const NOTICES = 4;

/** What was done goes away by itself, what was not stays until it is dismissed. */
function notice(isProblem, text) {
  const id = (page.noticed += 1);
  page.notices = [...page.notices, { id, isProblem, text }].slice(-NOTICES);
  if (!isProblem) setTimeout(() => forget(id), NOTICE_MS);
  showNotices();
}

function forget(id) {
  page.notices = page.notices.filter((one) => one.id !== id);
  showNotices();
}

// Two regions that are always there: what appears in one is read out.
function showNotices() {
  for (const [region, problems] of [
    ['answers', false],
    ['problems', true],
  ]) {
    render(
      byId(region),
      page.notices
        .filter(({ isProblem }) => isProblem === problems)
        .map(({ id, isProblem, text }) => {
          return h(
            'p',
            { key: id, class: isProblem ? 'notice bad' : 'notice ok' },
            h('span', null, text),
            h('button', { type: 'button', 'aria-label': `Dismiss: ${text}`, on: { click: () => forget(id) } }, '×'),
          );
        }),
    );
  }
}

// Asks for /status once a second and shows it; asks for the lists of what waits while they are open.
'use strict';

const POLL_MS = 1000;
/** Without an answer for so long, what is shown is shown as old. */
const STALE_MS = 3000;
const LIST_MS = 5000;
/** Of each database, at most. */
const LIST_ROWS = 100;
/** Their elements and their paths. */
const LISTS = [
  ['parked', 'parked'],
  ['letters', 'dead-letters'],
];
/** Of `/status`, that this page was made for. */
const STATUS_VERSION = 1;

const byId = (id) => document.getElementById(id);

/** Everything that the page knows. Moments are those of `performance.now()`. */
const page = {
  status: null,
  answeredAt: null,
  problem: null,
  before: null,
  points: [],
  cursors: {},
  sort: { column: null, isDown: false },
  filter: '',
  showsAll: false,
  lists: { parked: null, letters: null },
  doing: new Set(),
  notices: [],
  noticed: 0,
};

// --- Showing ---------------------------------------------------------------------------------------------------------

function showAll() {
  if (page.status) showStatus();
  showLists();
}

function showStatus() {
  const { status } = page;
  render(byId('head'), headView(status));
  render(byId('diagnosis'), diagnosisView(status));
  render(byId('stations'), stationsView(status));
  render(byId('tiles'), tilesView(status, trend(page.points)));
  showCharts();
  render(byId('shards'), shardsView(status));
  showPartitions();
  render(byId('topics'), topicsView(status, actions));
  render(byId('keys'), topKeysView(status, actions));
  render(byId('facts'), processView(status, cpuShare()));
  render(byId('parked-count'), status.totals.parked_keys > 0 && badge('warn', count(status.totals.parked_keys, 'key')));
  showTopicChoice();
  document.title = `${brief(status)} · ${status.process.group} · forebay`;
  showIcon(levelOf(status.findings[0]));
}

function showCharts() {
  render(
    byId('charts'),
    chartsView(page.points, page.cursors, (id, cursor) => {
      page.cursors[id] = cursor;
      showCharts();
    }),
  );
}

function showPartitions() {
  byId('filter-row').hidden = page.status.partitions.length <= ROWS;
  render(
    byId('partitions'),
    partitionsView(page.status, page, {
      sortBy: (column) => {
        page.sort = nextSort(page.sort, column);
        showPartitions();
      },
      showAll: () => {
        page.showsAll = !page.showsAll;
        showPartitions();
      },
    }),
  );
}

function showLists() {
  render(
    byId('parked-list'),
    listView(page.lists.parked, (entries) => parkedView(entries, actions), 'Nothing is held or parked.'),
  );
  render(
    byId('letters-list'),
    listView(page.lists.letters, (entries) => lettersView(entries, actions), 'No dead letters.'),
  );
  const letters = page.lists.letters?.entries?.length ?? 0;
  render(
    byId('letters-count'),
    letters > 0 && badge('warn', letters >= LIST_ROWS ? `${letters} or more` : String(letters)),
  );
}

function showTopicChoice() {
  render(
    byId('park-topic'),
    page.status.topics.map(({ name }) => h('option', { key: name, value: name }, visible(name))),
  );
}

/** Whether what is shown is what is. */
function showFreshness() {
  const age = page.answeredAt === null ? null : performance.now() - page.answeredAt;
  const isStale = age === null ? page.problem !== null : age >= STALE_MS;
  document.body.classList.toggle('stale', isStale);
  const why = page.problem ? `: ${page.problem}` : '';
  const old = age === null ? '' : ` What you see is ${tidy(duration(Math.floor(age / 1000) * 1000))} old.`;
  render(
    byId('freshness'),
    isStale ? h('span', null, `No news from /status${why}.`) : age === null ? 'Asking /status …' : 'Live',
    // Not read out each second.
    isStale && h('span', { 'aria-hidden': 'true' }, old),
  );
  byId('token-again').hidden = !tokenDialog.isRefused;
}

/** A dot in the colour of the diagnosis, for those who keep the page in a tab. */
function showIcon(level) {
  const colours = { bad: '%23d92d20', warn: '%23e19a00', note: '%231a8f55', ok: '%231a8f55' };
  const circle = `<circle cx='8' cy='8' r='7' fill='${colours[level]}'/>`;
  const icon = `data:image/svg+xml,<svg xmlns='${SVG}' viewBox='0 0 16 16'>${circle}</svg>`;
  if (byId('icon').getAttribute('href') !== icon) byId('icon').href = icon;
}

/** Of one core, between the last two answers. */
function cpuShare() {
  const [before, now] = [page.before?.process, page.status.process];
  const isSame = before && before.started_at_ms === now.started_at_ms && now.now_ms > before.now_ms;
  return isSame && now.cpu_ms !== null && before.cpu_ms !== null
    ? (now.cpu_ms - before.cpu_ms) / (now.now_ms - before.now_ms)
    : null;
}

// --- Asking ----------------------------------------------------------------------------------------------------------

async function pollStatus() {
  const started = performance.now();
  try {
    const status = await request('GET', 'status');
    if (status.version !== STATUS_VERSION)
      throw new Problem(`this page knows version ${STATUS_VERSION} of /status, not ${status.version}: load it again`);
    // Who comes because keys are parked sees which.
    if (!page.status && status.totals.parked_keys > 0) byId('parked').open = true;
    [page.before, page.status] = [page.status, status];
    page.points = remember(page.points, status.process.now_ms, status.totals);
    showStatus();
    [page.answeredAt, page.problem] = [performance.now(), null];
  } catch (error) {
    page.problem = error instanceof Problem ? error.message : `it says what this page cannot show (${error.message})`;
    if (!(error instanceof Problem)) console.error(error);
  }
  showFreshness();
  setTimeout(pollStatus, Math.max(0, POLL_MS - (performance.now() - started)));
}

async function askList(name, path) {
  try {
    page.lists[name] = await request('GET', `${path}?limit=${LIST_ROWS}`);
  } catch (error) {
    page.lists[name] = { problem: `No list: ${error.message}.` };
  }
  showLists();
}

const askOpenLists = () =>
  Promise.all(LISTS.filter(([name]) => byId(name).open).map(([name, path]) => askList(name, path)));

// Each asking reads from every database: only while somebody looks.
async function pollLists() {
  if (!document.hidden) await askOpenLists();
  setTimeout(pollLists, LIST_MS);
}

// --- Beginning -------------------------------------------------------------------------------------------------------

function listen() {
  byId('filter').oninput = (event) => {
    page.filter = event.target.value;
    showPartitions();
  };
  byId('level-form').onsubmit = (event) => {
    event.preventDefault();
    const level = byId('level').value.trim();
    if (level !== '') actions.setLogLevel(level);
  };
  byId('park-form').onsubmit = (event) => {
    event.preventDefault();
    const value = byId('park-value').value;
    if (value !== '') actions.park(byId('park-topic').value, byId('park-scope').value, value);
  };
  byId('token-again').onclick = () => tokenDialog.ask(TOKEN_WANTED);
  for (const [name, path] of LISTS) byId(name).ontoggle = () => byId(name).open && askList(name, path);
  // A link to a list opens it.
  document.onclick = (event) => {
    const target = document.getElementById(event.target.closest?.('a[href^="#"]')?.hash.slice(1) ?? '');
    if (target?.tagName === 'DETAILS') target.open = true;
  };
}

listen();
setInterval(showFreshness, 500);
pollStatus();
pollLists();

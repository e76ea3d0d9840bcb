// Speaks to the server that this page came from, and to nobody else; asks for its token where it wants one.
'use strict';

const TOKEN = 'forebay-token';
/** `/status` is there at once; what asks databases may have to wait for one that is away. */
const TIMEOUT_MS = { status: 5000, GET: 30_000, POST: 60_000 };
const TOKEN_WANTED = 'This server wants the token of [admin] token_file.';

/** A request that did not do what it was to do, as a sentence for the reader. */
class Problem extends Error {}

const tokenDialog = {
  /** The answer that is being waited for: one dialog serves all requests. */
  asked: null,
  /** The reader closed the dialog: it does not come back by itself. */
  isRefused: false,

  ask(why) {
    this.asked ??= new Promise((resolve) => {
      const [dialog, form, input] = ['token', 'token-form', 'token-value'].map((id) => document.getElementById(id));
      document.getElementById('token-why').textContent = why;
      input.value = '';
      form.onsubmit = (event) => {
        event.preventDefault();
        if (input.value.trim() === '') return;
        sessionStorage.setItem(TOKEN, input.value.trim());
        this.isRefused = false;
        dialog.close('given');
      };
      document.getElementById('token-later').onclick = () => dialog.close('later');
      dialog.returnValue = '';
      dialog.onclose = () => {
        this.asked = null;
        this.isRefused = dialog.returnValue !== 'given';
        resolve(!this.isRefused);
      };
      dialog.showModal();
    });
    return this.asked;
  },
};

/** The JSON that the server answers. Throws a [`Problem`]. */
async function request(method, path, body) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const answer = await sent(method, path, body, token);
    if (answer.status !== 401) return answered(answer);
    // Another request may have got a new one meanwhile.
    if (sessionStorage.getItem(TOKEN) !== token) continue;
    if (tokenDialog.isRefused && method === 'GET') throw new Problem('the server wants a token');
    const why = token === null ? TOKEN_WANTED : 'The server did not accept that token.';
    if (!(await tokenDialog.ask(why))) throw new Problem('the server wants a token');
  }
}

async function sent(method, path, body, token) {
  const headers = { Accept: 'application/json' };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  const timeout = TIMEOUT_MS[path] ?? TIMEOUT_MS[method];
  try {
    return await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
      signal: AbortSignal.timeout(timeout),
    });
  } catch (error) {
    const what = error.name === 'TimeoutError' ? `no answer within ${tidy(duration(timeout))}` : 'no answer';
    throw new Problem(method === 'POST' ? `${what}; whether it was done is not known` : what);
  }
}

async function answered(answer) {
  let json;
  try {
    json = await answer.json();
  } catch {
    throw new Problem(
      answer.ok ? 'the answer is not JSON' : `the server answered ${answer.status} ${answer.statusText}`,
    );
  }
  if (answer.ok) return json;
  const said = [json?.title, json?.detail].filter(Boolean).join(': ');
  throw new Problem(said || `the server answered ${answer.status} ${answer.statusText}`);
}

/**
 * Asks the reader in a dialog: `{verb, title, lines, isGrave, option}`. Null where the answer is no, else `{isTicked}`:
 * whether the option is.
 */
function confirmed({ verb, title, lines, isGrave, option }) {
  const [dialog, yes, no, box] = ['ask', 'ask-yes', 'ask-no', 'ask-option'].map((id) => document.getElementById(id));
  document.getElementById('ask-title').textContent = title;
  render(
    document.getElementById('ask-lines'),
    lines.map((line) => h('p', null, line)),
  );
  document.getElementById('ask-option-text').textContent = option ?? '';
  document.getElementById('ask-option-row').hidden = !option;
  box.checked = false;
  yes.textContent = verb;
  yes.classList.toggle('grave', Boolean(isGrave));
  return new Promise((resolve) => {
    yes.onclick = () => dialog.close('yes');
    no.onclick = () => dialog.close('no');
    // Escape leaves what an earlier question set.
    dialog.returnValue = 'no';
    dialog.onclose = () => resolve(dialog.returnValue === 'yes' ? { isTicked: box.checked } : null);
    dialog.showModal();
    (isGrave ? no : yes).focus();
  });
}

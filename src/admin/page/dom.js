// What is to be shown, as values, and how a document is made to show it. Nothing here knows forebay.
//
// `h` describes an element; `render` changes a parent's children into those described. Every node that can stay does, so
// that focus, selections and scroll positions survive an update. Text becomes text nodes and nothing else: no string is
// ever read as HTML.
'use strict';

const SVG = 'http://www.w3.org/2000/svg';

/** What each node was last made to show. */
const shownAs = new WeakMap();

/**
 * Describes an element. Of its properties, `key` tells it from its siblings, `on` holds handlers by event, `style`
 * properties of CSS by name; all others are attributes, left out where they are null, undefined or false.
 */
function h(tag, props, ...children) {
  const kept = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  return { tag, props: props ?? {}, children: kept };
}

/** Makes `parent` show these children. The element that has the focus keeps it, wherever it moves to. */
function render(parent, ...children) {
  const focused = document.activeElement;
  patch(parent, h('', null, children).children);
  if (focused !== document.activeElement && focused.isConnected && focused !== document.body) {
    focused.focus({ preventScroll: true });
  }
}

function patch(parent, children) {
  const before = [...parent.childNodes];
  const keyed = new Map();
  for (const node of before) {
    const key = shownAs.get(node)?.props.key;
    if (key !== undefined) keyed.set(key, node);
  }
  const unkeyed = before.filter((node) => shownAs.get(node)?.props.key === undefined);
  const used = new Set();
  let at = parent.firstChild;
  for (const child of children) {
    const node = reusable(child, keyed, unkeyed, used) ?? create(parent, child);
    used.add(node);
    update(node, child);
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  for (const node of before) if (!used.has(node)) node.remove();
}

/** A node of the same kind: that with the same key, or the next of those without one. */
function reusable(child, keyed, unkeyed, used) {
  if (typeof child !== 'object') return unkeyed.find((node) => !used.has(node) && node.nodeType === Node.TEXT_NODE);
  const fits = (node) => !used.has(node) && shownAs.get(node)?.tag === child.tag;
  if (child.props.key === undefined) return unkeyed.find(fits);
  const node = keyed.get(child.props.key);
  return node && fits(node) ? node : undefined;
}

function create(parent, child) {
  if (typeof child !== 'object') return document.createTextNode('');
  const isSvg = child.tag === 'svg' || parent.namespaceURI === SVG;
  return isSvg ? document.createElementNS(SVG, child.tag) : document.createElement(child.tag);
}

function update(node, child) {
  if (typeof child !== 'object') {
    if (node.nodeValue !== String(child)) node.nodeValue = String(child);
    return;
  }
  const before = shownAs.get(node)?.props ?? {};
  shownAs.set(node, child);
  for (const name of Object.keys({ ...before, ...child.props })) set(node, name, before[name], child.props[name]);
  patch(node, child.children);
}

function set(node, name, before, now) {
  if (name === 'key') return;
  if (name === 'on') {
    for (const event of Object.keys({ ...before, ...now })) node[`on${event}`] = now?.[event] ?? null;
  } else if (name === 'style') {
    for (const property of Object.keys({ ...before, ...now })) {
      if (before?.[property] !== now?.[property]) node.style.setProperty(property, now?.[property] ?? '');
    }
  } else if (before !== now) {
    if (now === null || now === undefined || now === false) node.removeAttribute(name);
    else node.setAttribute(name, now === true ? '' : now);
  }
}

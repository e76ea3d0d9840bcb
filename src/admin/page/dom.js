// What is to be shown, as values, and how a document is made to show it. Nothing here knows forebay.
//
// `h` describes an element; `render` changes a parent's children into those described. Every node that can stay does,
// so that focus, selections and scroll positions survive an update. Text becomes text nodes and nothing else: no string
// is ever read as HTML.
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
  let node = parent.firstChild;
  let index = 0;
  // As it is most of the time: the same ones in the same order.
  while (node && index < children.length && isOf(node, children[index])) {
    update(node, children[index]);
    node = node.nextSibling;
    index += 1;
  }
  if (node || index < children.length) patchFrom(parent, node, children.slice(index));
}

/** Makes `first` and its later siblings show these. */
function patchFrom(parent, first, children) {
  const before = [];
  for (let node = first; node; node = node.nextSibling) before.push(node);
  const keyed = new Map(before.map((node) => [shownAs.get(node)?.props.key, node]));
  const unkeyed = before.filter((node) => shownAs.get(node)?.props.key === undefined);
  const used = new Set();
  let at = first;
  for (const child of children) {
    const key = child.props?.key;
    const found = key === undefined ? unkeyed.find((node) => !used.has(node) && isOf(node, child)) : keyed.get(key);
    const node = found && !used.has(found) && isOf(found, child) ? found : create(parent, child);
    used.add(node);
    update(node, child);
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  for (const node of before) if (!used.has(node)) node.remove();
}

/** Whether it can go on as this one. */
function isOf(node, child) {
  if (typeof child !== 'object') return node.nodeType === Node.TEXT_NODE;
  const shown = shownAs.get(node);
  return shown !== undefined && shown.tag === child.tag && shown.props.key === child.props.key;
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
  for (const name in child.props) set(node, name, before[name], child.props[name]);
  for (const name in before) if (!(name in child.props)) set(node, name, before[name], undefined);
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

// Numbers, ages and names as people read them. What is not known is a dash, never a zero.
'use strict';

const NOTHING = '–';
/** Narrow and unbreakable: between groups of digits, and between a number and its unit. */
const THIN = '\u202f';

const known = (value, form) => (value === null || value === undefined ? NOTHING : form(value));

/** 1 234 567. */
function grouped(number) {
  return String(Math.round(number)).replace(/\B(?=(\d{3})+$)/g, THIN);
}

/** As `grouped` up to a million, then 1.23 M. */
function short(number) {
  for (const [unit, name] of [
    [1e12, 'T'],
    [1e9, 'G'],
    [1e6, 'M'],
  ]) {
    if (number >= unit) return `${(number / unit).toFixed(number < 10 * unit ? 2 : 1)}${THIN}${name}`;
  }
  return grouped(number);
}

const count = (number, noun) => `${short(number)} ${noun}${number === 1 ? '' : 's'}`;

const perSecond = (rate) => `${rate > 0 && rate < 10 ? rate.toFixed(1) : short(rate)}/s`;

/** The two largest units that say something: 340 ms, 4.2 s, 1 min 12 s, 2 d 1 h. */
function duration(ms) {
  if (ms < 1) return ms > 0 ? `${ms.toFixed(2)}${THIN}ms` : `0${THIN}ms`;
  if (ms < 999.5) return `${ms < 9.95 && ms % 1 ? ms.toFixed(1) : Math.round(ms)}${THIN}ms`;
  if (ms < 9950) return `${(ms / 1000).toFixed(1)}${THIN}s`;
  const s = Math.floor(ms / 1000);
  const parts = [
    [Math.floor(s / 86400), 'd'],
    [Math.floor(s / 3600) % 24, 'h'],
    [Math.floor(s / 60) % 60, 'min'],
    [s % 60, 's'],
  ];
  const first = parts.findIndex(([number]) => number > 0);
  return parts
    .slice(first, first + 2)
    .map(([number, unit]) => `${number}${THIN}${unit}`)
    .join(' ');
}

function bytes(number) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit > 0 && number < 100 ? number.toFixed(1) : Math.round(number)}${THIN}${units[unit]}`;
}

/** Of a share from 0 to 1. */
function percent(share) {
  return share > 0 && share < 0.01 ? `<${THIN}1${THIN}%` : `${Math.round(share * 100)}${THIN}%`;
}

/** A moment, in the reader's own time zone: 2025-11-26 03:12:44. */
const moment = (ms) => new Date(ms).toLocaleString('sv-SE');
const timeOfDay = (ms) => new Date(ms).toLocaleTimeString('sv-SE');

/** "a", "a and b", "a, b and c". */
function listed(names) {
  return names.length < 2 ? names.join('') : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`;
}

/** With what cannot be seen, or turns the direction of what stands around it, made visible. */
function visible(text) {
  return text.replace(
    /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (char) => {
      return `\\u{${char.codePointAt(0).toString(16)}}`;
    },
  );
}

/** A key of a record, which is text, or `{hex}` where its bytes are none. */
function keyName(key) {
  if (key === null || key === undefined) return NOTHING;
  if (typeof key === 'object') return `0x${key.hex}`;
  return key === '' ? '(empty)' : visible(key);
}

/** Whether a request can name it: its bytes are text, and it was not cut. */
const isNameable = (key) => typeof key === 'string' && !key.endsWith('…') && !key.includes('\uFFFD');

function reasonText(reason) {
  if (!reason) return NOTHING;
  return reason.sqlstate ? `${visible(reason.text)} (${reason.sqlstate})` : visible(reason.text);
}

const partitionName = ({ topic, partition }) => `${topic}${THIN}[${partition}]`;

// A transcript of what a driver saw; see ../python/transcript.py.
'use strict';

const fs = require('fs');
const path = require('path');

const FIRST_USER_OID = 16384;

/// The statements of a file of this directory's parent.
function statements(name) {
  const text = fs.readFileSync(path.join(__dirname, '..', name), 'utf8');
  const lines = text.split('\n').filter((line) => !line.startsWith('--'));
  return lines.join('\n').split(';\n').map((statement) => statement.trim()).filter(Boolean);
}

/// User types have other OIDs on every server.
const typeName = (oid) => (oid < FIRST_USER_OID ? oid : 'user');

function show(...values) {
  const texts = values.map((value) => {
    if (typeof value === 'string') return value;
    if (typeof value === 'bigint') return `${value}n`;
    return JSON.stringify(value, (_, inner) => (typeof inner === 'bigint' ? `${inner}n` : inner));
  });
  console.log(' ', texts.join(' | '));
}

function rows(list) {
  for (const row of list) show(...Object.values(row));
}

function errorParts(error) {
  const state = error.code;
  if (typeof state !== 'string' || !/^[0-9A-Z]{5}$/.test(state)) return null;
  const named = [error.detail, error.constraint, error.position].filter(Boolean);
  const message = error.nativeMessage || error.message;
  return { state, message, named: state === '0A000' ? [error.detail] : named, hint: error.hint };
}

async function step(name, body) {
  console.log(`== step ${name}`);
  try {
    await body();
  } catch (error) {
    // The next steps are still worth seeing.
    console.log(`  RAISED ${error.code || ''} ${error.message} ${error.detail || ''}`);
  }
}

/// What the body does must fail; SQLSTATE, message and detail are compared.
async function fails(body) {
  try {
    await body();
  } catch (error) {
    const parts = errorParts(error);
    if (!parts) throw error;
    show('ERROR', parts.state, parts.message.replace(/^.* - /s, ''), ...parts.named);
    return;
  }
  show('no error');
}

/// The gateway must refuse it with 0A000, detail and hint; PostgreSQL must do it.
async function refused(name, body) {
  console.log(`== refused ${name}`);
  try {
    await body();
  } catch (error) {
    const parts = errorParts(error);
    if (!parts) throw error;
    const explained = error.detail && error.hint ? '' : ' WITHOUT DETAIL OR HINT';
    console.log(`  ${parts.state} ${parts.message.replace(/^.* - /s, '')}${explained}`);
    return;
  }
  console.log('  done');
}

const end = () => console.log('== end');

module.exports = { statements, typeName, show, rows, step, fails, refused, end };

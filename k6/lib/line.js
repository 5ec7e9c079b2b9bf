// The waiting line: join, poll until called, claim the pass, give it back.

import { sleep } from 'k6';
import { Conflict, failure } from './client.js';
import { config } from './config.js';
import { conflicts, timeToPass } from './metrics.js';

const LINE = `/v1/concerts/${config.concert}/queue`;
const PLACE = ['status', 'arrival', 'rank', 'ahead', 'eta_seconds', 'poll_after_ms', 'expires_at'];

// A place does not say that the last seat is sold, the line does. Now and then is often enough.
const WAITS_PER_LOOK = 5;

// From arriving at the line to holding a pass.
export function enter(client) {
  const joinedAt = Date.now();
  const joined = join(client);
  const patience = { ticket: joined.ticket, until: joinedAt + config.waitMaxMs, waits: 0 };
  waitUntilCalled(client, joined, patience);
  const pass = claimPass(client, patience);
  timeToPass.add(Date.now() - joinedAt);
  return pass;
}

function join(client) {
  const { body } = client.call('join', 'POST', `${LINE}/tickets`, {
    headers: client.authorization,
    expect: { 200: ['ticket', ...PLACE], 201: ['ticket', ...PLACE] },
    refusals: ['sold_out'],
  });
  return body;
}

function waitUntilCalled(client, joined, patience) {
  let place = joined;
  while (place.status === 'lobby' || place.status === 'waiting') {
    pause(client, 'poll', place.poll_after_ms, patience);
    place = client.call('poll', 'GET', `${LINE}/tickets/me`, {
      headers: { 'Queue-Ticket': joined.ticket },
      expect: { 200: PLACE },
    }).body;
    const moved = joined.rank !== null && place.rank !== joined.rank;
    client.insist('poll', !moved, `rank ${joined.rank} became ${place.rank}`);
  }
  // Who polls as told never lapses, so everything but these two breaks a promise.
  const letIn = place.status === 'called' || place.status === 'admitted';
  client.insist('poll', letIn, `a buyer who waited politely is ${place.status}`);
}

// "Not called" is no refusal: all slots are taken, or this instance has not heard of the call yet.
function claimPass(client, patience) {
  for (;;) {
    const { status, body } = client.call('claim', 'POST', `${LINE}/passes`, {
      headers: { ...client.authorization, 'Queue-Ticket': patience.ticket },
      expect: { 201: ['pass', 'expires_at'] },
      again: ['not_called'],
    });
    if (status === 201) return body.pass;
    pause(client, 'claim', body.poll_after_ms, patience);
  }
}

export function leave(client, pass) {
  client.call('leave', 'DELETE', `${LINE}/passes/me`, {
    headers: { ...client.authorization, 'Queue-Pass': pass },
    expect: { 204: null },
  });
}

// Waits as long as the server asked for, no shorter and no longer.
function pause(client, step, milliseconds, patience) {
  if (!(milliseconds > 0)) {
    throw failure(step, 'broken_contract', `poll_after_ms is ${milliseconds}`);
  }
  if (Date.now() + milliseconds > patience.until) {
    throw failure(step, 'never_let_in', `still outside after ${config.waitMaxMs} ms`);
  }
  sleep(milliseconds / 1000);
  patience.waits += 1;
  if (patience.waits % WAITS_PER_LOOK === 0) goHomeIfSoldOut(client, patience.ticket);
}

function goHomeIfSoldOut(client, ticket) {
  const { body } = client.call('line', 'GET', LINE, {
    expect: { 200: ['concert_id', 'phase', 'issued', 'serving', 'waiting', 'active', 'seats_left'] },
  });
  if (body.phase !== 'sold_out') return;
  client.call('give_up', 'DELETE', `${LINE}/tickets/me`, {
    headers: { ...client.authorization, 'Queue-Ticket': ticket },
    expect: { 204: null },
  });
  conflicts.add(1, { step: 'line', code: 'sold_out' });
  throw new Conflict('line', 'sold_out');
}

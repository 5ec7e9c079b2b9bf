// A crowd that waits for the opening, and comes at once: concert, schedule, seat map, line, seats, wallet, charge, payment.
// Nobody has asked for anything before: setup() only waits for the moment, so that what the first requests find is what the
// server has got ready by itself.

import { sleep } from 'k6';
import { browse, chargePoints, holdSeats, pay } from './lib/booking.js';
import { Conflict } from './lib/client.js';
import { config, loadOptions } from './lib/config.js';
import { asFreshBuyer } from './lib/journey.js';
import { enter, leave } from './lib/line.js';

const opensAt = Number(__ENV.OPENS_AT_MS);
const performance = __ENV.PERFORMANCE;

export const options = { ...loadOptions(40), setupTimeout: '180s' };

export function setup() {
  if (!(opensAt > 0) || !performance) throw new Error('OPENS_AT_MS and PERFORMANCE must be set');
  const wait = opensAt - Date.now();
  if (wait < 0) throw new Error(`booking opened ${-wait} ms before the crowd was ready: raise OPEN_IN`);
  sleep(wait / 1000);
  return { performance };
}

export default function (sale) {
  asFreshBuyer((client) => {
    browse(client, sale);
    client.call('schedule', 'GET', `/v1/concerts/${config.concert}/performances`, { expect: { 200: ['items'] } });
    client.call('performance', 'GET', `/v1/performances/${sale.performance}`, { expect: { 200: ['id', 'concert'] } });
    const pass = enter(client);
    const held = holdOrLeave(client, sale, pass);
    chargePoints(client, held);
    pay(client, held);
  });
}

// Who gets no seats makes room for the next in line.
function holdOrLeave(client, sale, pass) {
  try {
    return holdSeats(client, sale, pass);
  } catch (refusal) {
    if (refusal instanceof Conflict) leave(client, pass);
    throw refusal;
  }
}

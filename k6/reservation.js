// The whole way of a buyer: line, pass, seats, points, payment, and the reservation read back.
// Nobody gets past the line, and seats that run out are conflicts, not errors.

import { browse, chargePoints, holdSeats, pay, readReservation } from './lib/booking.js';
import { Conflict } from './lib/client.js';
import { loadOptions } from './lib/config.js';
import { asFreshBuyer, findSale } from './lib/journey.js';
import { enter, leave } from './lib/line.js';

export const options = loadOptions(40);

export function setup() {
  return findSale();
}

export default function (sale) {
  asFreshBuyer((client) => {
    const pass = enter(client);
    browse(client, sale);
    const held = holdOrLeave(client, sale, pass);
    chargePoints(client, held);
    // Paying ends the pass, so there is nothing to give back afterwards.
    const reservation = pay(client, held);
    readReservation(client, reservation, held);
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

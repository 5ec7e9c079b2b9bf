// What a buyer with a pass does: look, hold, charge, pay, read the reservation back.

import { Conflict } from './client.js';
import { config } from './config.js';
import { conflicts } from './metrics.js';
import { countTaken, pickSeats, readBitmap, seatIds } from './seats.js';

export function browse(client, sale) {
  client.call('concert', 'GET', `/v1/concerts/${config.concert}`, {
    expect: { 200: ['id', 'title', 'status', 'seat_limit_per_buyer', 'grades', 'performances'] },
  });
  // Every buyer gets the same megabyte, and the layout is known from SEAT_MAP_FILE: it is fetched as
  // a browser would, compressed, but not unpacked.
  client.call('seat_map', 'GET', `/v1/performances/${sale.performance}/seat-map`, {
    headers: { 'Accept-Encoding': 'br, gzip' },
    expect: { 200: null },
    unread: true,
  });
}

function freeSeats(client, sale, wanted) {
  const { body } = client.call('availability', 'GET', `/v1/performances/${sale.performance}/availability`, {
    expect: { 200: ['performance_id', 'version', 'as_of', 'total', 'available', 'by_grade', 'taken'] },
  });
  const bitmap = readBitmap(body.taken);
  client.insist('availability', body.total === seatIds.length, 'total is not the seat map');
  client.insist('availability', bitmap.length * 8 >= body.total, 'the bitmap is too short');
  client.insist(
    'availability',
    body.total - countTaken(bitmap) === body.available,
    `${body.available} of ${body.total} are available, but the bitmap says ${countTaken(bitmap)} are taken`,
  );
  const seats = pickSeats(bitmap, wanted);
  if (seats.length === 0) {
    conflicts.add(1, { step: 'availability', code: 'none_free' });
    throw new Conflict('availability', 'none_free');
  }
  return seats;
}

// Looks again and picks others when somebody was quicker, as people do, but not for ever.
export function holdSeats(client, sale, pass) {
  const wanted = 1 + Math.floor(Math.random() * config.seatsMax);
  for (let attempt = 1; ; attempt += 1) {
    const seats = freeSeats(client, sale, wanted);
    try {
      return hold(client, sale, pass, seats);
    } catch (refusal) {
      const tryOthers = refusal instanceof Conflict && refusal.code === 'seats_taken';
      if (!tryOthers || attempt >= config.holdAttempts) throw refusal;
    }
  }
}

function hold(client, sale, pass, seats) {
  const { body } = client.call('hold', 'POST', `/v1/performances/${sale.performance}/holds`, {
    headers: { ...client.authorization, 'Queue-Pass': pass },
    body: { seat_ids: seats },
    expect: { 201: ['id', 'status', 'performance_id', 'seats', 'amount', 'currency', 'expires_at'] },
    refusals: ['seats_taken', 'seat_limit_exceeded', 'not_enough_seats', 'sold_out'],
  });
  const sum = body.seats.reduce((total, seat) => total + seat.price, 0);
  client.insist('hold', body.status === 'held', `a new hold is ${body.status}`);
  client.insist('hold', sameSeats(body.seats, seats), 'these are not the seats that were asked for');
  client.insist('hold', body.amount === sum, `the seats cost ${sum}, the hold says ${body.amount}`);
  return body;
}

// Charges exactly the price. The keys come from the hold: unique, and the same if it were sent again.
export function chargePoints(client, held) {
  const wallet = client.call('wallet', 'GET', '/v1/me/points', {
    headers: client.authorization,
    expect: { 200: ['balance', 'currency'] },
  }).body;
  const charge = client.call('charge', 'POST', '/v1/me/points/charges', {
    headers: { ...client.authorization, 'Idempotency-Key': `charge-${held.id}` },
    body: { amount: held.amount },
    expect: { 201: ['id', 'amount', 'balance', 'currency'] },
  }).body;
  const balance = wallet.balance + held.amount;
  client.insist('charge', charge.balance === balance, `the balance is ${charge.balance}, not ${balance}`);
}

const RESERVATION = ['id', 'status', 'performance_id', 'concert', 'seats', 'amount', 'currency', 'payment', 'created_at', 'paid_at'];

export function pay(client, held) {
  const { body } = client.call('pay', 'POST', `/v1/holds/${held.id}/payment`, {
    headers: { ...client.authorization, 'Idempotency-Key': `pay-${held.id}` },
    body: { method: 'points' },
    expect: { 201: RESERVATION },
    refusals: ['insufficient_points'],
  });
  insistSold(client, 'pay', body, held);
  return body;
}

// Asked of the next instance, so it also shows that what one instance sold, the others know.
export function readReservation(client, reservation, held) {
  const { body } = client.call('reservation', 'GET', `/v1/reservations/${reservation.id}`, {
    headers: client.authorization,
    expect: { 200: RESERVATION },
  });
  client.insist('reservation', body.id === reservation.id, 'this is another reservation');
  insistSold(client, 'reservation', body, held);
}

function insistSold(client, step, reservation, held) {
  const seats = held.seats.map((seat) => seat.id);
  const ticketed = reservation.seats.every((seat) => Boolean(seat.ticket_code));
  client.insist(step, reservation.status === 'confirmed', `a paid reservation is ${reservation.status}`);
  client.insist(step, reservation.amount === held.amount, 'the amount is not that of the hold');
  client.insist(step, sameSeats(reservation.seats, seats), 'the seats are not those of the hold');
  client.insist(step, ticketed, 'a seat has no ticket code');
}

function sameSeats(seats, ids) {
  return seats.length === ids.length && seats.every((seat) => ids.includes(seat.id));
}

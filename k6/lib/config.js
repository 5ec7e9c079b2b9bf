// All that a run can be told from outside, read in one place, so that the rest of the scripts
// never looks into the environment.

function required(name) {
  const value = __ENV[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

function positive(name, fallback) {
  const value = Number(__ENV[name] || fallback);
  if (!(value > 0)) throw new Error(`${name} must be a number above zero`);
  return value;
}

export const config = {
  // Several instances, separated by commas: a buyer's requests go round them in turn.
  baseUrls: required('BASE_URLS')
    .split(',')
    .map((url) => url.trim().replace(/\/+$/, ''))
    .filter(Boolean),
  concert: required('CONCERT'),
  // An absolute path, because k6 resolves others against the script and not the working directory.
  usersFile: required('USERS_FILE'),
  // The answer of GET /v1/performances/{id}/seat-map, for tests that choose seats. Also absolute.
  seatMapFile: __ENV.SEAT_MAP_FILE,
  requestTimeout: __ENV.REQUEST_TIMEOUT || '10s',
  // A buyer who is not let in within this time counts as an error.
  waitMaxMs: 1000 * positive('WAIT_MAX_SECS', 300),
  // Each buyer wants one to this many seats, and tries so often when others are quicker.
  seatsMax: positive('SEATS_MAX', 2),
  holdAttempts: positive('HOLD_ATTEMPTS', 3),
};

// Arrivals are offered at a rate that does not depend on how quickly the server answers: a slow
// server must not slow its own test down. STAGES="10s:50,30s:200" ramps the rate; without it, RATE
// is constant for DURATION.
function arrivals(defaultRate) {
  const stages = (__ENV.STAGES || '')
    .split(',')
    .filter(Boolean)
    .map((stage) => {
      const [duration, target] = stage.trim().split(':');
      if (!duration || !(Number(target) >= 0)) throw new Error(`STAGES: "${stage}" is not duration:rate`);
      return { duration, target: Number(target) };
    });
  const rate = positive('RATE', defaultRate);
  const peak = stages.reduce((highest, stage) => Math.max(highest, stage.target), 0) || rate;
  // A waiting buyer occupies a virtual user. They are made beforehand, because k6 drops an iteration
  // for each one that it makes during the run; but idle ones cost memory and garbage collection on
  // the processors that are being measured, so not ten times too many. The rest are for bad moments.
  const vus = positive('VUS', Math.ceil(5 * peak));
  const common = {
    timeUnit: '1s',
    preAllocatedVUs: vus,
    maxVUs: 2 * vus,
    gracefulStop: __ENV.GRACE || '30s',
  };
  if (stages.length > 0) return { executor: 'ramping-arrival-rate', startRate: 0, stages, ...common };
  return { executor: 'constant-arrival-rate', rate, duration: __ENV.DURATION || '60s', ...common };
}

export function loadOptions(defaultRate) {
  return {
    scenarios: { buyers: arrivals(defaultRate) },
    thresholds: { errors: ['count==0'] },
    // Fewer tags than k6's default keep the sample file, and the cost of writing it, small.
    systemTags: ['name', 'status', 'group', 'error_code'],
    setupTimeout: '60s',
  };
}

% # How values are written: the same words as in status.js. What is no number stands as it came.
% def age(seconds):
%   minutes, hours = int(seconds // 60), int(seconds // 3600)
%   if seconds < 10:
%     return '%.1f s' % seconds
%   elif seconds < 60:
%     return '%d s' % seconds
%   elif minutes < 60:
%     return '%d min %d s' % (minutes, seconds % 60)
%   elif hours < 24:
%     return '%d h %d min' % (hours, minutes % 60)
%   end
%   return '%d d %d h' % (hours // 24, hours % 24)
% end
%
% FORMATS = {'count': '{:,}'.format, 'ms': '{:.1f} ms'.format, 'age': age}
%
% def written(value, format='text'):
%   if value is None:
%     return '–'
%   elif format in FORMATS and isinstance(value, (int, float)):
%     return FORMATS[format](value)
%   end
%   return str(value)
% end
%
% def figure(path, format='text'):
%   value = snapshot
%   for step in path.split('.'):
%     value = (value or {}).get(step)
%   end
%   return written(value, format)
% end
%
% WORKER_COLUMNS = (
%   ('model', 'Model', 'text'), ('in_flight', 'In flight', 'count'), ('credit', 'Credit', 'count'),
%   ('done', 'Answered', 'count'), ('failed', 'Failed', 'count'), ('mean_ms', 'Mean', 'ms'),
%   ('p95_ms', 'p95', 'ms'), ('last_heartbeat_s', 'Heartbeat', 'age'), ('uptime_s', 'Up', 'age'))
% COUNTERS = (
%   ('accepted', 'Accepted'), ('answered', 'Answered'), ('failed', 'Failed'), ('requeued', 'Moved'),
%   ('handed_back', 'Handed back'), ('hedged', 'Hedged'), ('quarantined', 'Quarantined'),
%   ('refused', 'Refused'), ('expired', 'Expired'), ('cancelled', 'Cancelled'), ('late', 'Late'),
%   ('duplicate', 'Duplicate'), ('ejected', 'Workers ejected'), ('bad_frames', 'Bad frames'))
%
% # Each row is written once: the page shows it, and the script copies it from a <template>.
% # The roles are spelt out because on a phone the table is laid out as cards.
% def worker_row(worker):
            <tr class="worker" role="row" data-id="{{ worker.get('id') }}" data-state="{{ worker.get('state') }}">
              <th role="rowheader" scope="row">
                <bdi class="name" data-field="name">{{ worker.get('name') }}</bdi>
                <span class="fine"><bdi data-field="host">{{ worker.get('host') }}</bdi> · <span data-field="pid">{{ worker.get('pid') }}</span></span>
              </th>
              <td role="cell"><span class="state" data-field="state">{{ worker.get('state') }}</span></td>
%   for name, heading, format in WORKER_COLUMNS:
              <td role="cell" class="{{ format }}" data-heading="{{ heading }}"><span data-field="{{ name }}" data-format="{{ format }}">{{ written(worker.get(name), format) }}</span></td>
%   end
            </tr>
% end
%
% def event_row(event, position=0):
              <li class="event" data-id="{{ position }}">
                <span class="when"><span data-field="ago_s" data-format="age">{{ written(event.get('ago_s'), 'age') }}</span> ago</span>
                <bdi data-field="text">{{ event.get('text') }}</bdi>
              </li>
% end
%
% def departed_row(worker, position=0):
              <li class="departed" data-id="{{ position }}">
                <span class="when"><span data-field="ago_s" data-format="age">{{ written(worker.get('ago_s'), 'age') }}</span> ago</span>
                <span><bdi class="name" data-field="name">{{ worker.get('name') }}</bdi> on <bdi data-field="host">{{ worker.get('host') }}</bdi>, after
                <span data-field="done" data-format="count">{{ written(worker.get('done'), 'count') }}</span> answered:
                <bdi data-field="reason">{{ worker.get('reason') }}</bdi></span>
              </li>
% end
%
% def model_row(model):
              <li class="model" data-id="{{ model.get('name') }}">
                <bdi class="name" data-field="name">{{ model.get('name') }}</bdi>
                <span class="soft"><span data-field="workers" data-format="count">{{ written(model.get('workers'), 'count') }}</span> serving,
                <span data-field="waiting" data-format="count">{{ written(model.get('waiting'), 'count') }}</span> waiting</span>
                <code class="fine" data-field="digest">{{ model.get('digest') }}</code>
              </li>
% end
%
% def quarantine_row(picture):
              <li class="quarantined" data-id="{{ picture.get('sha256') }}">
                <span class="when"><span data-field="left_s" data-format="age">{{ written(picture.get('left_s'), 'age') }}</span> left</span>
                <span>cost two workers or children; sent again
                <span data-field="refused" data-format="count">{{ written(picture.get('refused'), 'count') }}</span> times.
                <code class="fine" data-field="sha256">{{ picture.get('sha256') }}</code>
                <button class="quiet" type="button" data-let-out hidden>Let it out</button></span>
              </li>
% end
%
% def empty(name, sentence):
            <p class="soft" data-empty="{{ name }}"{{ ' hidden' if snapshot.get(name) else '' }}>{{ sentence }}</p>
% end
%
% snapshot = status or {}
% able = sum(worker.get('state') in ('ready', 'busy') for worker in snapshot.get('workers', ()))
% if status is None:
%   condition, sentence = 'down', 'The broker cannot be reached'
%   advice = 'Nothing answers at %s. This page keeps asking and comes back by itself.' % broker_address
% elif able == 0:
%   condition, sentence = 'no-workers', 'No worker on watch'
%   advice = 'Nothing can be recognised until a worker joins. The line below starts one.'
% else:
%   condition, advice = 'serving', ''
%   sentence = 'Serving, with %d worker%s on watch' % (able, '' if able == 1 else 's')
% end
%
% def body():
    <div id="status" data-condition="{{ condition }}" data-broker="{{ broker_address }}">
      <header class="intro">
        <div role="status">
          <h1 id="condition">{{ sentence }}</h1>
          <p id="condition-detail" class="lead">{{ advice }}</p>
        </div>
        <button id="pause" class="quiet" type="button" aria-pressed="false" hidden>Pause</button>
      </header>

      <div id="figures"{{ ' hidden' if status is None else '' }}>
        <dl class="tiles">
          <div><dt>In flight</dt><dd data-path="queue.in_flight" data-format="count">{{ figure('queue.in_flight', 'count') }}</dd></div>
          <div><dt>Waiting</dt><dd><span data-path="queue.waiting" data-format="count">{{ figure('queue.waiting', 'count') }}</span>
            <small>of <span data-path="queue.max_waiting" data-format="count">{{ figure('queue.max_waiting', 'count') }}</span></small></dd></div>
          <div><dt>Oldest wait</dt><dd data-path="queue.oldest_wait_s" data-format="age">{{ figure('queue.oldest_wait_s', 'age') }}</dd></div>
          <div><dt>Answered</dt><dd data-path="counters.answered" data-format="count">{{ figure('counters.answered', 'count') }}</dd></div>
          <div><dt>Moved</dt><dd data-path="counters.requeued" data-format="count">{{ figure('counters.requeued', 'count') }}</dd></div>
          <div><dt>Broker up</dt><dd data-path="broker.uptime_s" data-format="age">{{ figure('broker.uptime_s', 'age') }}</dd></div>
        </dl>

        <section aria-labelledby="workers-title">
          <h2 id="workers-title">Workers</h2>
          <table id="workers" role="table" aria-labelledby="workers-title">
            <thead role="rowgroup">
              <tr role="row">
                <th role="columnheader" scope="col">Name</th>
                <th role="columnheader" scope="col">State</th>
%   for name, heading, format in WORKER_COLUMNS:
                <th role="columnheader" scope="col" class="{{ format }}">{{ heading }}</th>
%   end
              </tr>
            </thead>
            <tbody role="rowgroup" data-list="workers" data-key="id" data-row="worker-row">
%   for worker in snapshot.get('workers', ()):
%     worker_row(worker)
%   end
            </tbody>
          </table>
%   empty('workers', 'None has joined yet.')
        </section>

        <section class="join" aria-labelledby="join-title">
          <h2 id="join-title">Join another machine</h2>
          <p class="line"><code id="join-line">python worker.py <span data-path="broker.backend">{{ figure('broker.backend') }}</span></code>
            <button id="copy" class="quiet" type="button" hidden>Copy</button></p>
          <p class="fine">A broker on 127.0.0.1 hears its own machine only; <code>broker.py --backend</code> widens that.</p>
        </section>

        <div class="columns">
          <section aria-labelledby="events-title">
            <h2 id="events-title">Log</h2>
            <ol class="log" data-list="events" data-row="event-row">
%   for position, event in enumerate(snapshot.get('events', ())):
%     event_row(event, position)
%   end
            </ol>
%   empty('events', 'Nothing of note has happened.')
          </section>

          <section aria-labelledby="departed-title">
            <h2 id="departed-title">Departed workers</h2>
            <ul class="log" data-list="departed" data-row="departed-row">
%   for position, worker in enumerate(snapshot.get('departed', ())):
%     departed_row(worker, position)
%   end
            </ul>
%   empty('departed', 'None has left.')
          </section>

          <section aria-labelledby="quarantine-title">
            <h2 id="quarantine-title">Pictures in quarantine</h2>
            <ul class="log" data-list="quarantine" data-key="sha256" data-row="quarantine-row">
%   for picture in snapshot.get('quarantine', ()):
%     quarantine_row(picture)
%   end
            </ul>
%   empty('quarantine', 'None has killed twice.')
          </section>

          <section aria-labelledby="counters-title">
            <h2 id="counters-title">Pictures since the broker started</h2>
            <dl class="ledger">
%   for name, heading in COUNTERS:
              <div><dt>{{ heading }}</dt><dd data-path="counters.{{ name }}" data-format="count">{{ figure('counters.' + name, 'count') }}</dd></div>
%   end
            </dl>
          </section>

          <section aria-labelledby="models-title">
            <h2 id="models-title">Models</h2>
            <ul class="plain" data-list="models" data-key="name" data-row="model-row">
%   for model in snapshot.get('models', ()):
%     model_row(model)
%   end
            </ul>
%   empty('models', 'A model comes with its first worker.')
            <h2>Broker</h2>
            <p class="soft">Version <span data-path="broker.version">{{ figure('broker.version') }}</span>,
              <span data-path="broker.state">{{ figure('broker.state') }}</span>.
              Workers join at <code data-path="broker.backend">{{ figure('broker.backend') }}</code>,
              clients at <code data-path="broker.frontend">{{ figure('broker.frontend') }}</code>.</p>
          </section>
        </div>
      </div>
    </div>

    <template id="worker-row">
%   worker_row({})
    </template>
    <template id="event-row">
%   event_row({})
    </template>
    <template id="departed-row">
%   departed_row({})
    </template>
    <template id="quarantine-row">
%   quarantine_row({})
    </template>
    <template id="model-row">
%   model_row({})
    </template>
% end
% include('base.tpl', body=body, title='Status', page='Status', script='status.js', refresh_s=5)

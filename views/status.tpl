% # How values are written: the same words as in status.js. A value that is not a number is shown as it is.
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
% def milliseconds(value):
%   if value < 1000:
%     return '%.*f ms' % (1 if value < 100 else 0, value)
%   end
%   return '%.1f s' % (value / 1000)
% end
%
% FORMATS = {'count': '{:,}'.format, 'ms': milliseconds, 'age': age}
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
%   ('done', 'Answered', 'count'), ('failed', 'Failed', 'count'), ('p50_ms', 'Median', 'ms'),
%   ('p95_ms', '95 %', 'ms'), ('last_heartbeat_s', 'Last heard', 'age'), ('uptime_s', 'Uptime', 'age'))
% COUNTERS = (
%   ('accepted', 'Accepted'), ('answered', 'Answered'), ('failed', 'Failed'), ('requeued', 'Moved'),
%   ('handed_back', 'Handed back'), ('hedged', 'Hedged'), ('quarantined', 'Quarantined'),
%   ('refused', 'Refused'), ('expired', 'Expired'), ('cancelled', 'Cancelled'), ('late', 'Late'),
%   ('duplicate', 'Duplicate'), ('ejected', 'Workers ejected'), ('bad_frames', 'Bad frames'),
%   ('internal_errors', 'Internal errors'))
%
% # The sentences of the lists, as in status.js.
% def counted(n, thing):
%   return '%s %s%s' % (written(n, 'count'), thing, '' if n == 1 else 's')
% end
%
% def refusals(n):
%   if not n:
%     return ''
%   end
%   return ' Refused once since.' if n == 1 else ' Refused %s times since.' % written(n, 'count')
% end
%
% def nobody():
%   if not snapshot.get('departed'):
%     return 'No worker is connected.'
%   end
%   last = snapshot['departed'][0]
%   return 'No worker is connected. The last one, %s, left %s ago: %s.' % (
%     last.get('name'), written(last.get('ago_s'), 'age'), last.get('reason'))
% end
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
              <td role="cell" class="text" data-heading="Model"><bdi data-field="model">{{ worker.get('model') }}</bdi></td>
              <td role="cell" class="load" data-heading="Load"><meter min="0" max="{{ worker.get('slots') or 1 }}" value="{{ worker.get('in_flight') or 0 }}" aria-hidden="true"></meter>
                <span class="fine"><span data-field="in_flight" data-format="count">{{ written(worker.get('in_flight'), 'count') }}</span> of <span data-field="slots" data-format="count">{{ written(worker.get('slots'), 'count') }}</span></span></td>
%   for name, heading, format in WORKER_COLUMNS:
              <td role="cell" class="{{ format }}" data-heading="{{ heading }}"><span data-field="{{ name }}" data-format="{{ format }}">{{ written(worker.get(name), format) }}</span></td>
%   end
              <td role="cell" class="actions with-script"><button class="link" type="button" data-do="drain">Drain</button> <button class="link" type="button" data-do="remove">Remove</button></td>
            </tr>
% end
%
% def event_row(event):
              <li class="event" data-id="{{ event.get('id') }}">
                <span class="when"><span data-field="ago_s" data-format="age">{{ written(event.get('ago_s'), 'age') }}</span> ago</span>
                <bdi data-field="line">{{ ', '.join(filter(None, (event.get('text'), event.get('outcome')))) }}</bdi>
              </li>
% end
%
% def departed_row(worker, position=0):
              <li class="departed" data-id="{{ position }}">
                <span class="when"><span data-field="ago_s" data-format="age">{{ written(worker.get('ago_s'), 'age') }}</span> ago</span>
                <span><bdi class="name" data-field="name">{{ worker.get('name') }}</bdi> on <bdi data-field="host">{{ worker.get('host') }}</bdi> answered
                <span data-field="done" data-format="count">{{ written(worker.get('done'), 'count') }}</span>, then left:
                <bdi data-field="reason">{{ worker.get('reason') }}</bdi></span>
              </li>
% end
%
% def model_row(model):
              <li class="model" data-id="{{ model.get('name') }}">
                <bdi class="name" data-field="name">{{ model.get('name') }}</bdi>
                <span class="soft" data-field="load">{{ counted(model.get('workers'), 'worker') }}, {{ counted(model.get('waiting'), 'picture') }} waiting</span>
                <code class="fine" data-field="digest">{{ model.get('digest') }}</code>
              </li>
% end
%
% def quarantine_row(picture):
              <li class="quarantined" data-id="{{ picture.get('sha256') }}">
                <span class="when"><span data-field="left_s" data-format="age">{{ written(picture.get('left_s'), 'age') }}</span> left</span>
                <span><span data-field="story">Two processes died on it.{{ refusals(picture.get('refused')) }}</span>
                <code class="fine" data-field="sha256">{{ picture.get('sha256') }}</code>
                <button class="link with-script" type="button" data-do="release">Release</button></span>
              </li>
% end
%
% def empty(name, sentence):
            <p class="soft" data-empty="{{ name }}"{{ ' hidden' if snapshot.get(name) else '' }}>{{ sentence }}</p>
% end
%
% # Rows a page of the table shows: a screen or two, so that the page stays quick with a thousand workers.
% WORKERS_A_PAGE = 20
%
% snapshot = status or {}
% workers = snapshot.get('workers', ())
% security = snapshot.get('broker', {}).get('security', {})
% able = sum(worker.get('state') in ('ready', 'busy') for worker in workers)
% if status is None:
%   condition, sentence = 'down', 'The broker cannot be reached'
%   advice = (
%     'No reply from %s. Retrying automatically. If the broker does not come back, start it with: python broker.py' % broker_address)
% elif able == 0:
%   condition, sentence = 'no-workers', 'No worker connected'
%   advice = 'Nothing can be recognised until a worker joins. Start one with the command below.'
% else:
%   condition, advice = 'serving', ''
%   sentence = 'Serving: ' + counted(able, 'worker')
% end
%
% def tile(heading, path, format='count'):
          <div><dt>{{ heading }}</dt><dd data-path="{{ path }}" data-format="{{ format }}">{{ figure(path, format) }}</dd></div>
% end
%
% # Shown where an action is refused without it.
% def token_field(id):
            <p class="token" hidden><label for="{{ id }}">Admin token</label>
              <input id="{{ id }}" type="password" autocomplete="off" autocapitalize="off" spellcheck="false" aria-describedby="{{ id }}-where">
              <span id="{{ id }}-where" class="fine">Ask whoever installed Spyglass. It is kept only until you leave this page.</span></p>
% end
%
% def chart(name, heading):
          <figure class="chart" data-chart="{{ name }}">
            <figcaption><span>{{ heading }}</span> <strong class="now"></strong> <span class="fine peak"></span></figcaption>
            <svg viewBox="0 0 300 100" preserveAspectRatio="none" role="img" aria-label="{{ heading }}, the last five minutes"><path class="area"/><path class="line"/><path class="cursor"/></svg>
            <p class="fine axis" aria-hidden="true"><span>5 min ago</span><span>now</span></p>
          </figure>
% end
%
% def body():
    <div id="status" data-condition="{{ condition }}" data-broker="{{ broker_address }}">
      <header class="intro">
        <div role="status">
          <h1 id="condition">{{ sentence }}</h1>
          <p id="condition-detail" class="lead">{{ advice }}</p>
        </div>
        <button id="pause" class="quiet with-script" type="button" aria-pressed="false">Pause updates</button>
      </header>

      <div id="figures"{{ ' hidden' if status is None else '' }}>
        <dl class="tiles">
%   tile('In flight', 'queue.in_flight')
          <div><dt>Waiting</dt><dd><span data-path="queue.waiting" data-format="count">{{ figure('queue.waiting', 'count') }}</span>
            <small>of <span data-path="queue.max_waiting" data-format="count">{{ figure('queue.max_waiting', 'count') }}</span></small></dd></div>
%   tile('Oldest wait', 'queue.oldest_wait_s', 'age')
%   tile('Answered', 'counters.answered')
%   tile('Moved', 'counters.requeued')
%   tile('Broker uptime', 'broker.uptime_s', 'age')
        </dl>

        <section class="charts with-script" aria-label="The last five minutes">
%   chart('rate', 'Answered per second')
%   chart('waiting', 'Waiting')
        </section>

        <section aria-labelledby="workers-title">
          <div class="heading">
            <h2 id="workers-title">Workers</h2>
            <input id="find" type="search" placeholder="Name, host, model or state" aria-label="Filter workers by name, host, model or state" hidden>
          </div>
          <table id="workers" role="table" aria-labelledby="workers-title">
            <thead role="rowgroup">
              <tr role="row">
%   for name, heading, format in (('name', 'Name', 'who'), ('state', 'State', 'state-of'), ('model', 'Model', 'text'), ('load', 'Load', 'load'), *WORKER_COLUMNS):
                <th role="columnheader" scope="col" class="{{ format }}"><button class="sort" type="button" data-sort="{{ name }}" disabled>{{ heading }}</button></th>
%   end
                <td class="actions with-script"></td>
              </tr>
            </thead>
            <tbody role="rowgroup" data-list="workers" data-key="id" data-row="worker-row">
%   for worker in workers[:WORKERS_A_PAGE]:
%     worker_row(worker)
%   end
            </tbody>
          </table>
%   empty('workers', nobody())
          <p id="pager" class="fine buttons" data-page-size="{{ WORKERS_A_PAGE }}"{{ ' hidden' if len(workers) <= WORKERS_A_PAGE else '' }}>
            <span id="pager-line">The first {{ WORKERS_A_PAGE }} of {{ '{:,}'.format(len(workers)) }}.</span>
            <button id="previous" class="quiet with-script" type="button">Previous</button>
            <button id="next" class="quiet with-script" type="button">Next</button>
          </p>
        </section>

        <section class="join" aria-labelledby="join-title">
          <h2 id="join-title">Add a worker</h2>
          <p class="line"><code id="join-line" data-path="broker.join">{{ figure('broker.join') }}</code>
            <button id="copy" class="quiet" type="button" hidden>Copy</button></p>
          <p id="only-here" class="fine"{{ '' if security.get('backend') == 'loopback' else ' hidden' }}>This broker accepts workers from this machine only; see <code>broker.py --backend</code>.</p>
          <p id="insecure" role="note"{{ '' if 'insecure' in security.values() else ' hidden' }}>This broker was started with <code>--insecure</code>: anyone who can reach its ports can join as a worker, send pictures, and read those of others.</p>
          <form id="let-in" class="with-script"{{ '' if security.get('backend') == 'encrypted' else ' hidden' }}>
            <label for="let-in-name">SECRET stands for a key. Create a join command with its own key, named so that you can revoke it:</label>
            <input id="let-in-name" type="text" name="name" placeholder="kitchen" pattern="[A-Za-z0-9._#\-]{1,64}" title="A name of A-Z a-z 0-9 . _ # -" autocomplete="off" spellcheck="false">
            <button class="quiet">Create command</button>
%   token_field('let-in-token')
            <output id="let-in-line"></output>
          </form>
          <form id="add" class="with-script">
            <label for="address">Or connect to a worker started with <code>--listen</code>:</label>
            <input id="address" type="text" name="address" placeholder="tcp://192.168.1.7:8888" required pattern="(tcp|ipc)://.+" title="An address such as tcp://192.168.1.7:8888" autocomplete="off" spellcheck="false">
            <button class="quiet">Add</button>
%   token_field('add-token')
            <output id="added" class="soft"></output>
          </form>
        </section>

        <div class="columns">
          <div>
            <section aria-labelledby="events-title">
              <h2 id="events-title">Log</h2>
              <ol class="log" tabindex="0" aria-labelledby="events-title" data-list="events" data-key="id" data-row="event-row">
%   for event in snapshot.get('events', ()):
%     event_row(event)
%   end
              </ol>
%   empty('events', 'No events yet.')
            </section>

            <details id="departed">
              <summary><h2>Departed workers</h2> <span class="soft" id="departed-count">{{ len(snapshot.get('departed', ())) }}</span></summary>
              <ul class="log" data-list="departed" data-row="departed-row">
%   for position, worker in enumerate(snapshot.get('departed', ())):
%     departed_row(worker, position)
%   end
              </ul>
%   empty('departed', 'None so far.')
            </details>
          </div>

          <div>
            <section aria-labelledby="counters-title">
              <h2 id="counters-title">Pictures since the broker started</h2>
              <dl class="ledger">
%   for name, heading in COUNTERS:
                <div><dt>{{ heading }}</dt><dd data-path="counters.{{ name }}" data-format="count">{{ figure('counters.' + name, 'count') }}</dd></div>
%   end
              </dl>
            </section>

            <section aria-labelledby="quarantine-title">
              <div class="heading">
                <h2 id="quarantine-title">Pictures in quarantine</h2>
                <button id="clear" class="link" type="button" data-do="clear" hidden>Release all</button>
              </div>
              <ul class="log" data-list="quarantine" data-key="sha256" data-row="quarantine-row">
%   for picture in snapshot.get('quarantine', ()):
%     quarantine_row(picture)
%   end
              </ul>
%   empty('quarantine', 'No pictures in quarantine.')
            </section>

            <section aria-labelledby="models-title">
              <h2 id="models-title">Models</h2>
              <ul class="plain" data-list="models" data-key="name" data-row="model-row">
%   for model in snapshot.get('models', ()):
%     model_row(model)
%   end
              </ul>
%   empty('models', 'Models appear when a worker joins.')
              <p class="fine">Broker <span data-path="broker.version">{{ figure('broker.version') }}</span>,
                <span data-path="broker.state">{{ figure('broker.state') }}</span>;
                workers at <code data-path="broker.backend">{{ figure('broker.backend') }}</code>,
                clients at <code data-path="broker.frontend">{{ figure('broker.frontend') }}</code>.</p>
            </section>
          </div>
        </div>
      </div>
    </div>

    <dialog id="confirm" class="small" aria-labelledby="confirm-title" aria-describedby="confirm-text">
      <h2 id="confirm-title"></h2>
      <p id="confirm-text"></p>
      <p id="confirm-error" class="bad" role="alert"></p>
%   token_field('confirm-token')
      <p class="buttons"><button id="confirm-no" class="quiet" type="button">Cancel</button>
        <button id="confirm-yes" type="button"></button></p>
    </dialog>

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
% include('base.tpl', body=body, title='Status', page='Status', sheet='status.css', script='status.js', refresh_s=5)

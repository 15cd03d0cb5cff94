% def body():
    <section class="notice" data-status="{{ status }}">
      <p class="eyebrow">Error {{ status }}</p>
      <h1>{{ title }}</h1>
%   if detail:
      <p class="lead">{{ detail }}</p>
%   end
      <p><a class="button" href="/">Back to the upload page</a></p>
%   if request_id:
      <p class="fine">Request <code>{{ request_id }}</code></p>
%   end
    </section>
% end
% include('base.tpl', body=body, title=title)

<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <meta name="theme-color" content="#f5f1e8" media="(prefers-color-scheme: light)">
  <meta name="theme-color" content="#0a1520" media="(prefers-color-scheme: dark)">
  <title>{{ title }} · Spyglass</title>
  <link rel="icon" href="/static/favicon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="/static/style.css">
% if get('sheet'):
  <link rel="stylesheet" href="/static/{{ sheet }}">
% end
% if get('refresh_s'):
  <noscript><meta http-equiv="refresh" content="{{ refresh_s }}"></noscript>
% end
% if get('script'):
  <script type="module" src="/static/{{ script }}"></script>
% end
</head>
<body>
  <a class="skip" href="#main">Skip to content</a>
  <header class="masthead">
    <a class="brand" href="/"><img src="/static/favicon.svg" alt="" width="36" height="36">Spyglass</a>
    <nav aria-label="Pages">
% for name, href in (('Upload', '/'), ('Camera', '/camera'), ('Status', '/status')):
%   if name == get('page'):
      <a href="{{ href }}" aria-current="page">{{ name }}</a>
%   else:
      <a href="{{ href }}">{{ name }}</a>
%   end
% end
    </nav>
  </header>
  <main id="main" tabindex="-1">
% body()
  </main>
  <footer class="colophon">
    <p>Pictures are processed in memory and never stored.</p>
  </footer>
</body>
</html>

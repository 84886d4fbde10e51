-- commit.lua: append one event and the snapshot it produces, or say why not.
--
-- KEYS[1]  {ns:NN}:log   KEYS[2]  {ns:NN}:exp   KEYS[3]  {ns:NN}:end   KEYS[4]  {ns:NN}:birth
-- KEYS[5]  {ns:NN}:ended   KEYS[6]  {ns:NN}:s:<sid>  snapshot
-- ARGV[1]  sid                 ARGV[2]  expected head, "" to create   ARGV[3]  event id: 12 bytes, and 4 of the attempt
-- ARGV[4]  the worker's part of the header   ARGV[5]  body
-- ARGV[6]  actor   ARGV[7]  context   ARGV[8]  data   ARGV[9]  worker's time in ms
-- ARGV[10] the worker's part of the feed message
-- ARGV[11] version of the first attempt when its reply was lost, else "0"
-- ARGV[12] idle ms             ARGV[13] absolute ms, "0" to leave it; never "0" to create
-- ARGV[14] type                ARGV[15] what must have passed: "idle", "absolute", a time, or ""
-- ARGV[16] channel without incarnation   ARGV[17] PUBLISH or SPUBLISH   ARGV[18] TTL of an ended snapshot, ms
-- ARGV[19] ms that a living snapshot is kept past its absolute deadline
-- What is the same in most commits stands last, so that it is packed once.
--
-- Returns {"ok", sid, now, id, tail, ""} | {"ok", sid, now, "", "", snapshot} (had happened already)
--         | {"gone", sid, now} | {"alive" | "ended" | "conflict", sid, now, "", "", snapshot}
-- Cost    O(size of the snapshot); of a retry after a lost reply O(events since the first attempt)
--
-- Of what this takes, half is Lua's handling of strings: times stay the 13 digits that they are in the header, which
-- compare as text, and numbers are left for redis.call to write (whole ones it writes without a point).

local call, sub = redis.call, string.sub
local sid, expected, event_id, prefix, type_, absolute = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[14], ARGV[13]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = call('MGET', KEYS[6], KEYS[3], KEYS[4])
local old, last, birth = found[1], found[2], found[3]
local created, authenticated, previous, absolute_at, secret

if not old then
  if expected ~= '' then return {'gone', sid, now} end
  authenticated, previous = '0000000000000', '0-0'
else
  previous = string.match(old, '^%S+', 102)
  local status = sub(old, 39, 39)
  if sub(old, 7, 22) ~= expected then
    local id = ARGV[11] ~= '0' and previous
    while id and id ~= '0-0' do
      local link = call('XRANGE', KEYS[1], id, id)[1]
      if not link then break end
      local entry = {}
      for i = 1, #link[2], 2 do entry[link[2][i]] = link[2][i + 1] end
      if sub(entry.i, 1, 12) == sub(event_id, 1, 12) then return {'ok', sid, now, '', '', old} end
      id = tonumber(entry.n) > tonumber(ARGV[11]) and entry.p
    end
    return {status == 'E' and 'ended' or 'conflict', sid, now, '', '', old}
  end
  if status == 'E' then return {'ended', sid, now, '', '', old} end
  absolute_at = sub(old, 89, 101)
  local is_idle, is_old = now >= tonumber(sub(old, 76, 88)), now >= tonumber(absolute_at)
  if type_ ~= 'ended' then
    if is_idle or is_old then return {'ended', sid, now, '', '', old} end
  elseif (ARGV[15] == 'idle' and not is_idle) or (ARGV[15] == 'absolute' and not is_old)
    or now < (tonumber(ARGV[15]) or 0) then
    return {'alive', sid, now, '', '', old}
  end
  created, authenticated, secret = sub(old, 50, 62), sub(old, 63, 75), sub(old, 126, 138)
end

if not birth then
  local incarnation = string.gsub(sub(event_id, 1, 4), '.', function(c) return string.format('%02x', string.byte(c)) end)
  birth = string.format('%.0f ', now) .. incarnation
  call('SET', KEYS[4], birth)
end
local id = call('XADD', KEYS[1], '*', 't', type_, 's', sid, 'n', string.match(prefix, '[1-9]%d*', 40), 'p', previous,
  'i', event_id, 'o', ARGV[9] - now, 'a', ARGV[6], 'c', ARGV[7], 'd', ARGV[8],
  'k', sub(prefix, 3, 6), 'm', sub(prefix, 7, 22))
call('SET', KEYS[3], id .. ' ' .. event_id)

local stamp = sub(id, 1, 13)
local idle_at = string.format('%.0f', now + ARGV[12])
if type_ == 'authenticated' then authenticated = stamp end
if absolute ~= '0' then absolute_at = string.format('%.0f', now + absolute) end
if not old or type_ == 'authenticated' or type_ == 'renewed' then secret = stamp end
local tail = (created or stamp) .. authenticated .. idle_at .. absolute_at
  .. sub(id .. '                        ', 1, 24) .. secret

if type_ == 'ended' then
  call('SET', KEYS[6], prefix .. tail .. ARGV[5], 'PX', ARGV[18])
  call('ZREM', KEYS[2], sid)
  call('ZADD', KEYS[5], stamp, sid)
else
  if absolute ~= '0' then
    call('SET', KEYS[6], prefix .. tail .. ARGV[5], 'PX', absolute + ARGV[19])
  else
    call('SET', KEYS[6], prefix .. tail .. ARGV[5], 'KEEPTTL')
  end
  call('ZADD', KEYS[2], idle_at < absolute_at and idle_at or absolute_at, sid)
end

last = last or ('0-0 ' .. string.rep('\0', 16))
local space = string.find(last, ' ', 1, true)
redis.pcall(ARGV[17], ARGV[16] .. sub(birth, -8),
  sub(last, 1, space) .. id .. ' ' .. #ARGV[10] .. '\n' .. sub(last, space + 1) .. ARGV[10])
return {'ok', sid, now, id, tail, ''}

// The text of status_page.html, for status_page.cc alone. `{{SNAPSHOT}}` stands where the numbers
// go.
#ifndef ENGRAM_SERVER_HTTP_STATUS_PAGE_HTML_H_
#define ENGRAM_SERVER_HTTP_STATUS_PAGE_HTML_H_

namespace engram {

extern const char kStatusPageHtml[];

}  // namespace engram

#endif  // ENGRAM_SERVER_HTTP_STATUS_PAGE_HTML_H_
